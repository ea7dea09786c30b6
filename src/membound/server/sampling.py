"""Request fields become the engine's sampling."""

import secrets

from membound.server.errors import ApiError
from membound.server.fields import BIAS_LIMIT, GenerationFields
from membound.serving.sampling import Sampling


def sampling_of(
    fields: GenerationFields, vocabulary: int, *, max_tokens: int | None, logprobs: int | None
) -> Sampling:
    """As asked; what is left out has OpenAI's defaults: temperature and top_p 1, a seed by chance."""
    top_k = max(fields.top_k or 0, 0)
    top_p = 1.0 if fields.top_p is None else fields.top_p
    if top_p == 0:  # the shortest head that holds at least nothing: the likeliest token
        top_k, top_p = 1, 1.0
    stop = fields.stop if fields.stop is not None else []
    beyond = [token for token in fields.stop_token_ids or () if token >= vocabulary]
    if beyond:
        message = f"stop_token_ids: {beyond[0]} is no token id from 0 to {vocabulary - 1}"
        raise ApiError(400, message, param="stop_token_ids")
    return Sampling(
        temperature=1.0 if fields.temperature is None else fields.temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=fields.min_p or 0.0,
        repetition_penalty=1.0 if fields.repetition_penalty is None else fields.repetition_penalty,
        presence_penalty=fields.presence_penalty or 0.0,
        frequency_penalty=fields.frequency_penalty or 0.0,
        logit_bias=_biases(fields.logit_bias, vocabulary),
        seed=secrets.randbits(63) if fields.seed is None else fields.seed,
        max_tokens=max_tokens,
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
        stop_ids=frozenset(fields.stop_token_ids or ()),
        ignore_eos=fields.ignore_eos,
        logprobs=logprobs,
    )


def _biases(biases: object, vocabulary: int) -> tuple[tuple[int, float], ...]:
    """Of what a request said, which nobody has looked at before."""
    if biases is None:
        return ()
    if not isinstance(biases, dict):
        raise ApiError(400, "logit_bias: not an object of token ids and numbers", param="logit_bias")
    found = {}
    for token, bias in biases.items():
        if not (token.isascii() and token.isdigit() and int(token) < vocabulary):
            message = f"logit_bias: {token!r} is no token id from 0 to {vocabulary - 1}"
            raise ApiError(400, message, param="logit_bias")
        if isinstance(bias, bool) or not isinstance(bias, int | float) or abs(bias) > BIAS_LIMIT:
            place = f"logit_bias.{token}"
            raise ApiError(400, f"{place}: not a number from -{BIAS_LIMIT} to {BIAS_LIMIT}", param=place)
        found[int(token)] = float(bias)
    return tuple(sorted(found.items()))
