"""The engine that asks a server: any OpenAI-compatible endpoint (vLLM, SGLang, `transformers serve`) with our model.

It keeps the contract of the local engine but for one thing: the samples are the server's. They are drawn by its own
generator from the seeds we send, so they differ from the local engine's, and most servers do not repeat them bit for
bit under another load. Greedy answers are the local ones up to float rounding. The first requests are asked both ways,
and a server that does not hold the same model, template and picture settings is refused.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from dcsft.generation.client import Client, chat_of
from dcsft.generation.engine import Engine, Request, Sampling
from dcsft.models.completion_logps import completion_logps_naive
from dcsft.models.render import render_prompts
from dcsft.models.vlm import VLM
from dcsft.records import Completion
from dcsft.seeding import seed_of

log = logging.getLogger(__name__)

_CHECKED_TOKENS = 8
"""Of a greedy answer; over more, rounding in bfloat16 would part even equal models."""
_CHECKED_NATS = 0.1
"""Largest mean difference of a token's log-probability; kernels in bfloat16 differ by a few hundredths."""
_IN_STORE = re.compile(r"(?:cold_start|train)/[0-9a-f]{12}")
_HOT = 2.0
"""The highest temperature of the protocol: a server that answers alike at it does not sample."""
_HOT_SAMPLES = 8


class Server(Engine):
    """Answers of a server that holds the same model as `vlm`.

    A completion's `token_ids` are the server's own where it gives them (vLLM), else its text tokenised anew, with the
    end of the turn if it was reached: the same text, not always the same cut into tokens. `logp` is NaN: a server's
    log-probabilities are those of temperature 1 or of none that we know.

    Args:
        client: asks the server.
        vlm: the model that the server must hold: its tokenizer, and the answers to compare with.
        local: the local engine of `vlm`; None where `vlm` has no weights, which takes parity_check=0.
        weights: the folder in the store that the server's model comes from.
        parity_check: so many of the first requests are answered both ways; 0 trusts the server.
        extensions: send what vLLM and SGLang take beyond the protocol: top_k, a repetition penalty and min_p that are
            off (vLLM takes them from the model's generation_config.json otherwise), a ban of picture tokens, and the
            wish for token ids. Without, the server must have those off by itself.
        samples_per_request: so many samples are asked for at once; a server that gives fewer is asked again.
    """

    def __init__(
        self,
        client: Client,
        vlm: VLM,
        local: Engine | None,
        weights: Path,
        parity_check: int,
        extensions: bool,
        samples_per_request: int,
    ) -> None:
        self.client, self.vlm, self.local, self.weights = client, vlm, local, weights
        self.parity_check, self.extensions, self.samples_per_request = parity_check, extensions, samples_per_request
        self._checked = parity_check == 0

    def generate(self, requests: Sequence[Request], n: int, sampling: Sampling) -> list[list[Completion]]:
        if not self._checked:
            self._check(requests[: self.parity_check], sampling)
            self._checked = True
        return self._generate(requests, n, sampling)

    def _generate(self, requests: Sequence[Request], n: int, sampling: Sampling) -> list[list[Completion]]:
        async def answers(request: Request) -> list[Completion]:
            body = self._body(request, sampling)
            if sampling.temperature == 0:  # all samples are one
                return [self._completion(request, (await self.client.ask(request.id, body))["choices"][0])] * n
            found: list[Completion] = []
            while len(found) < n:
                missing = min(n - len(found), self.samples_per_request)
                seed = seed_of("server", sampling.seed, request.id, len(found)) % 2**31
                more = {"seed": seed, **({"n": missing} if missing > 1 else {})}
                answer = await self.client.ask(f"{request.id}#{len(found)}", body | more)
                found += [self._completion(request, choice) for choice in answer["choices"][:missing]]
            return found

        return self.client.each(answers, requests)

    def _body(self, request: Request, sampling: Sampling) -> dict[str, Any]:
        body: dict[str, Any] = {
            "messages": chat_of(request.messages),
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_new_tokens,
        }
        if self.extensions:
            body |= {
                "top_k": sampling.top_k or -1,
                "min_p": 0.0,
                "repetition_penalty": sampling.repetition_penalty,
                "return_token_ids": True,
            }
            body["logit_bias"] = {str(token): -100 for token in self.vlm.picture_ids}
        return body

    def _completion(self, request: Request, choice: dict[str, Any]) -> Completion:
        message = choice["message"]
        if message.get("reasoning_content") or message.get("reasoning"):
            raise ValueError(
                f"the server must give an answer as one text, got the reasoning of {request.id} apart from "
                f"{self.client.url}; start it without a reasoning parser"
            )
        text, finished = message.get("content") or "", choice.get("finish_reason") == "stop"
        ids = choice.get("token_ids") or self.vlm.processor.tokenizer(text, add_special_tokens=False)["input_ids"]
        ids = [token for token in ids if token not in self.vlm.picture_ids]  # spelt out, it is no placeholder
        if finished and (not ids or ids[-1] not in self.vlm.eos_ids):
            ids.append(self.vlm.end_of_turn_id)
        return Completion(tuple(ids), text, float("nan"), finished)

    # --- is it the same model? ----------------------------------------------------------------------------------

    def _check(self, requests: Sequence[Request], sampling: Sampling) -> None:
        """Refuse a server whose prompts, greedy answers or log-probabilities are not those of `vlm`, or that does not
        sample when it should."""
        assert self.local is not None
        greedy = Sampling.greedy(min(sampling.max_new_tokens, _CHECKED_TOKENS))
        expected = [group[0] for group in self.local.generate(requests, 1, greedy)]

        async def ask(request: Request) -> dict[str, Any]:
            return await self.client.ask(request.id, self._body(request, greedy) | {"logprobs": True})

        answers = self.client.each(ask, requests)
        self._check_folder(self.client.each(lambda _: self.client.models(), [None])[0])
        compared = 0
        for request, mine, answer in zip(requests, expected, answers, strict=True):
            length = render_prompts(self.vlm, [request.messages]).lengths[0]
            theirs = self._completion(request, answer["choices"][0])
            reported = (answer.get("usage") or {}).get("prompt_tokens")
            if reported != length:
                self._refuse(request, f"{length} prompt tokens", f"{reported}", "template and picture settings")
            if theirs.text != mine.text:
                self._refuse(request, f"the greedy answer {mine.text!r}", f"{theirs.text!r}", "weights")
            logps = [token["logprob"] for token in (answer["choices"][0].get("logprobs") or {}).get("content") or []]
            if logps:
                compared += 1
                apart = self._apart(request, mine, logps)
                if apart > _CHECKED_NATS:
                    self._refuse(request, "its log-probabilities", f"others, {apart:.2f} nats apart", "weights")
        if not compared:
            log.warning("%s gives no log-probabilities: its greedy answers alone were compared", self.client.url)
        if sampling.temperature > 0:
            self._check_that_it_samples(requests, sampling)

    def _check_folder(self, models: Mapping[str, str]) -> None:
        """vLLM says where a model comes from; where that is a folder of a store, its key must be the right one."""
        told, wanted = _IN_STORE.search(models.get(self.client.model, "")), _IN_STORE.search(str(self.weights))
        if told and wanted and told[0] != wanted[0]:
            raise ValueError(
                f"the server must hold {self.weights}, got the model of {told[0]} from {self.client.url}; start it "
                f"with: {self.client.start}"
            )

    def _refuse(self, request: Request, mine: str, theirs: str, what: str) -> None:
        start = f": {self.client.start}" if self.client.start else ""
        raise ValueError(
            f"the server must hold the local model's {what}, with {mine} for {request.id}, got {theirs} from "
            f"{self.client.url}; serve the right model{start}, or set engine.parity_check=0 to trust the server"
        )

    @torch.no_grad()
    def _apart(self, request: Request, mine: Completion, theirs: list[float]) -> float:
        """Mean difference of the tokens' log-probabilities at temperature 1; a server may leave out the last token,
        the end of the turn."""
        prompts = render_prompts(self.vlm, [request.messages])
        logps, _ = completion_logps_naive(self.vlm, prompts, [[mine.token_ids]], temperature=1.0)
        pairs = list(zip(logps[0, 0].tolist(), theirs, strict=False))
        return sum(abs(ours - other) for ours, other in pairs) / len(pairs)

    def _check_that_it_samples(self, requests: Sequence[Request], sampling: Sampling) -> None:
        """`transformers serve`, for one, answers greedily at any temperature if generation_config.json says so."""
        hot = Sampling(_HOT, 1.0, 0, min(sampling.max_new_tokens, _CHECKED_TOKENS), sampling.seed)
        groups = self._generate(requests, _HOT_SAMPLES, hot)
        if all(len({completion.text for completion in group}) == 1 for group in groups):
            raise ValueError(
                f"the server must sample at a temperature above 0, got {_HOT_SAMPLES} equal answers at temperature "
                f"{_HOT:g} from {self.client.url}; set do_sample in the generation_config.json that it loads, or use "
                "another server"
            )
