"""OpenAI's endpoints, Prometheus metrics, and a page that shows where each step stands against the roof."""
