"""A server answers as the local engine does; its faults are waited out, its refusals said in one line."""

import logging
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from miniatures import ask
from tiny_server import NAME, TinyServer

from dcsft.generation.client import Client
from dcsft.generation.engine import Request, Sampling
from dcsft.generation.server import Server
from dcsft.generation.shared_prefix import SharedPrefix
from dcsft.models.vlm import VLM

GREEDY = Sampling.greedy(8)
SAMPLING = Sampling(temperature=0.9, top_p=1.0, top_k=0, max_new_tokens=8, seed=5)
QUESTION = "What is shown in this picture? Answer with one word."
DEFAULTS = dict(
    model=NAME,
    api_key_env=None,
    concurrency=8,
    timeout_s=10.0,
    num_retries=3,
    patience_s=20.0,
    backoff_s=0.02,
    extra_body={},
    start="vllm serve HERE",
)


def client(url: str, **changed) -> Client:
    return Client(url, **(DEFAULTS | changed))


def engine(server: TinyServer, vlm: VLM, parity_check: int = 0, extensions: bool = True, at_once: int = 8, **changed):
    local = SharedPrefix(vlm, batch_size=16)
    return Server(client(server.url, **changed), vlm, local, Path("."), parity_check, extensions, at_once)


@pytest.fixture(scope="module")
def requests(icon_picture) -> list[Request]:
    return [Request(f"train/{number}", ask(icon_picture(number), QUESTION)) for number in range(24)]


@pytest.fixture(scope="module")
def expected(shipped, requests):
    return [group[0] for group in SharedPrefix(shipped, batch_size=16).generate(requests, 1, GREEDY)]


# --- the contract -------------------------------------------------------------------------------------------------


def test_greedy_answers_are_those_of_the_local_engine(server, shipped, requests, expected):
    answers = engine(server, shipped, parity_check=4).generate(requests, 1, GREEDY)
    assert [group[0].text for group in answers] == [mine.text for mine in expected]
    assert [group[0].token_ids for group in answers] == [mine.token_ids for mine in expected]
    assert [group[0].finished for group in answers] == [mine.finished for mine in expected]


def test_without_extensions_the_text_is_tokenised_anew(server, shipped, requests, expected):
    answers = engine(server, shipped, extensions=False).generate(requests, 2, GREEDY)
    assert [group[0].token_ids for group in answers] == [mine.token_ids for mine in expected]
    assert all(first == second for first, second in answers)
    assert {key for request in server.requests for key in request} == {"model", "temperature", "top_p", "max_tokens"}


def test_an_answer_at_the_token_limit_is_not_finished(server, shipped, requests):
    (answer,) = engine(server, shipped).generate(requests[:1], 1, Sampling.greedy(1))[0]
    assert (len(answer.token_ids), answer.finished) == (1, False)


@pytest.mark.parametrize(("manners", "at_once", "asked"), [({}, 8, 1), ({}, 3, 3), ({"one_at_a_time": True}, 8, 8)])
def test_n_samples_however_many_the_server_gives_at_once(server, shipped, requests, manners, at_once, asked):
    server.behave(**manners)
    ours = engine(server, shipped, at_once=at_once)
    first, again = ours.generate(requests[:3], 8, SAMPLING), ours.generate(requests[:3], 8, SAMPLING)
    assert [len(group) for group in first] == [8, 8, 8]
    assert len(server.requests) == 2 * 3 * asked
    assert len({completion.text for group in first for completion in group}) > 1
    # This server draws from the seed it is sent.
    assert [[one.text for one in group] for group in first] == [[one.text for one in group] for group in again]
    assert {request["top_k"] for request in server.requests} == {-1}


# --- faults that pass ---------------------------------------------------------------------------------------------


def test_faults_change_no_answer(server, shipped, requests, expected):
    nothing = {"answer": {"choices": []}}
    server.behave({"status": 500}, {"drop": 1}, nothing, {"status": 503}, {"drop": 1}, {"answer": "?"}, {"sleep": 3.0})
    answers = engine(server, shipped, timeout_s=2.0, num_retries=9).generate(requests, 1, GREEDY)
    assert [group[0].text for group in answers] == [mine.text for mine in expected]
    assert len(server.requests) >= len(requests) + 7


def test_the_server_says_how_long_to_wait(server, shipped, requests):
    server.behave({"status": 429, "headers": {"Retry-After": "1"}})
    start = time.monotonic()
    engine(server, shipped).generate(requests[:1], 1, GREEDY)
    assert time.monotonic() - start >= 1.0
    date = "Fri, 01 Jan 2100 00:00:00 GMT"  # far beyond our patience
    server.behave({"status": 503, "headers": {"Retry-After": date}})
    with pytest.raises(ValueError, match="status 503"):
        engine(server, shipped).generate(requests[:1], 1, GREEDY)


@pytest.mark.slow
def test_a_server_that_dies_and_comes_back_changes_no_answer(shipped, requests, expected, caplog, monkeypatch):
    monkeypatch.setattr("dcsft.generation.client._LONGEST_PAUSE_S", 0.5)
    monkeypatch.setattr("dcsft.generation.client._SAID_AFTER_S", 0.5)
    from dcsft.stages.plan import SHIPPED_FOUNDATION as FOUNDATION

    server = TinyServer(FOUNDATION).start()
    server.behave(sleep=0.2)
    restart = threading.Timer(0.3, lambda: (server.kill(), server.start(wait=False)))
    restart.start()
    try:
        with caplog.at_level(logging.WARNING, "dcsft"):
            answers = engine(server, shipped, concurrency=4, backoff_s=0.2, patience_s=120.0).generate(
                requests, 1, GREEDY
            )
    finally:
        restart.join()
        server.kill()
    assert [group[0].text for group in answers] == [mine.text for mine in expected]
    said = [record.getMessage() for record in caplog.records if record.name == "dcsft.generation.client"]
    assert len(said) == 2, said
    assert said[0].startswith(f"waiting for {server.url} (")
    assert said[1] == f"{server.url} answers again"


# --- one line each ------------------------------------------------------------------------------------------------


def refused(server, vlm, requests, said: str, **changed) -> None:
    with pytest.raises(ValueError, match=re.escape(said)) as error:
        engine(server, vlm, **changed).generate(requests, 1, GREEDY)
    assert "\n" not in str(error.value)
    assert server.url in str(error.value)


def test_a_server_that_is_not_there(shipped, requests):
    gone = TinyServer(Path("nowhere"))
    refused(gone, shipped, requests, "engine.url must be a server that answers, got ConnectError", patience_s=0.2)
    refused(gone, shipped, requests, "start it with: vllm serve HERE, or raise engine.patience_s", patience_s=0.2)


def test_a_model_that_the_server_does_not_have(server, shipped, requests):
    said = 'got \'polcy\', status 404 ({"error": {"message": "no polcy here"}}); it has policy'
    refused(server, shipped, requests, said, model="polcy")


def test_keys(server, shipped, requests, monkeypatch):
    monkeypatch.delenv("TINY_KEY", raising=False)
    with pytest.raises(ValueError, match=r"got 'TINY_KEY', which is not set; export TINY_KEY=KEY"):
        client(server.url, api_key_env="TINY_KEY")
    server.behave(key="sesame")
    refused(server, shipped, requests, "engine.api_key_env must name a variable with a key that")
    monkeypatch.setenv("TINY_KEY", "sesame")
    assert engine(server, shipped, api_key_env="TINY_KEY").generate(requests[:1], 1, GREEDY)


def test_a_server_that_cannot_take_pictures(server, shipped, requests):
    server.behave(text_only=True)
    refused(server, shipped, requests, "status 400")
    refused(server, shipped, requests, "not a multimodal model")
    refused(server, shipped, requests, "it must take pictures")


def test_a_server_that_goes_on_failing(server, shipped, requests):
    server.behave(*[{"answer": {"choices": []}}] * 4)
    refused(server, shipped, requests[:1], "got an answer without choices ('{\"choices\": []}') 4 times")
    server.behave(*[{"status": 500}] * 4)
    refused(server, shipped, requests[:1], "the server must answer train/0, got status 500")
    server.behave(*[{"sleep": 0.5}] * 4)
    refused(server, shipped, requests[:1], "got no answer within 0.1 s 4 times", timeout_s=0.1)


def test_reasoning_that_the_server_splits_off(server, shipped, requests):
    server.behave(message={"reasoning_content": "It has a roof."})
    refused(server, shipped, requests, "start it without a reasoning parser")


# --- the same model? ----------------------------------------------------------------------------------------------


def test_another_model_is_refused(server, shipped, vlm, requests):
    server.behave(longer=1)  # as with another picture size or template
    said = "must hold the local model's template and picture settings, with 37 prompt tokens for train/0, got 38"
    refused(server, shipped, requests, said, parity_check=2)
    server.behave()
    vlm.language_model.norm.weight.data *= 0.5  # the same greedy answers, with other probabilities
    refused(server, vlm, requests, "with its log-probabilities for train/0, got others", parity_check=2)
    vlm.language_model.norm.weight.data *= -1.0
    refused(server, vlm, requests, "must hold the local model's weights, with the greedy answer", parity_check=2)


def test_a_server_that_says_it_holds_another_folder_of_the_store_is_refused(server, shipped, requests):
    ours = engine(server, shipped, parity_check=1)
    ours.weights = Path("outputs/store/train/0123456789ab/adapter")
    server.behave(root="/elsewhere/outputs/store/cold_start/ba9876543210/model")
    with pytest.raises(ValueError, match="got the model of cold_start/ba9876543210 from http"):
        ours.generate(requests, 1, GREEDY)
    server.behave(root="/elsewhere/outputs/store/train/0123456789ab/adapter")
    assert ours.generate(requests[:1], 1, GREEDY)


def test_a_server_that_does_not_sample_is_refused(server, shipped, requests, caplog):
    server.behave(greedy=True, no_logprobs=True)
    with pytest.raises(ValueError, match="must sample at a temperature above 0, got 8 equal answers at temperature 2"):
        engine(server, shipped, parity_check=3).generate(requests, 8, SAMPLING)
    assert "gives no log-probabilities: its greedy answers alone were compared" in caplog.text


def test_the_check_is_made_once(server, shipped, requests):
    ours = engine(server, shipped, parity_check=2)
    for _ in range(2):
        ours.generate(requests[:3], 8, SAMPLING)
    assert sum("logprobs" in request for request in server.requests) == 2
    assert sum(request["temperature"] == 2.0 for request in server.requests) == 2


# --- transformers serve -------------------------------------------------------------------------------------------

SERVE = """
import sys, torch
torch.set_num_threads(1)
from dcsft.models.processors import allow_missing_torchvision
allow_missing_torchvision()
from transformers.cli.serve import Serve
Serve(force_model=sys.argv[1], host="127.0.0.1", port=int(sys.argv[2]), device="cpu")
"""


@pytest.fixture(scope="module")
def transformers_serve() -> Iterator[str]:
    from dcsft.stages.plan import SHIPPED_FOUNDATION as FOUNDATION

    root = TinyServer(FOUNDATION).root  # a free port
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE, str(FOUNDATION), root.rpartition(":")[2]], stderr=subprocess.DEVNULL
    )
    while True:
        try:
            httpx2.get(f"{root}/health")
            break
        except httpx2.TransportError:
            assert process.poll() is None, "the server died"
            time.sleep(0.1)
    yield f"{root}/v1"
    process.kill()
    process.wait()


@pytest.mark.slow
def test_transformers_serve(transformers_serve, shipped, requests, expected):
    from dcsft.stages.plan import SHIPPED_FOUNDATION as FOUNDATION

    def ours() -> Server:
        local = SharedPrefix(shipped, 16)
        return Server(client(transformers_serve, model=str(FOUNDATION)), shipped, local, FOUNDATION, 4, False, 8)

    answers = ours().generate(requests, 1, GREEDY)
    assert [group[0].text for group in answers] == [mine.text for mine in expected]
    assert [group[0].token_ids for group in answers] == [mine.token_ids for mine in expected]
    with pytest.raises(ValueError, match="set do_sample in the generation_config"):  # its way, see the engine
        ours().generate(requests, 8, SAMPLING)
