"""What a model is: its dimensions, its operators with their costs, and its weights."""
