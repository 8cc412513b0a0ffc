"""A real OpenAI-compatible server in a process of its own, which holds a small model and misbehaves when it is told to.

Answers come from transformers' own `generate`, one prompt at a time, and not from our engine. It speaks what vLLM
speaks beyond the protocol: n, top_k, return_token_ids, logprobs.

    python tests/tiny_server.py MODEL PORT
"""

import base64
import io
import json
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2

NAME = "policy"


class TinyServer:
    """The process, as a test holds it."""

    def __init__(self, model: Path) -> None:
        self.model = model
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.root = f"http://127.0.0.1:{self.port}"
        self.url = f"{self.root}/v1"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, wait: bool = True) -> "TinyServer":
        self.process = subprocess.Popen([sys.executable, __file__, str(self.model), str(self.port)])
        while wait:
            try:
                httpx2.get(f"{self.root}/health")
                break
            except httpx2.TransportError:
                assert self.process.poll() is None, "the server died"
                time.sleep(0.1)
        return self

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def behave(self, *faults: dict[str, Any], **manners: Any) -> None:
        """The next requests meet `faults`, one each; `manners` hold until changed. Both replace earlier ones."""
        httpx2.post(f"{self.root}/behave", json={"faults": faults, "manners": manners}).raise_for_status()

    @property
    def requests(self) -> list[dict[str, Any]]:
        """Every chat request since `behave`, pictures left out."""
        return httpx2.get(f"{self.root}/requests").json()


class Answerer:
    """The model and its manners."""

    def __init__(self, path: str) -> None:
        import torch
        from transformers import AutoModelForImageTextToText

        from dcsft.models.processors import load_processor

        torch.set_num_threads(1)
        self.torch = torch
        self.processor = load_processor(path)
        self.model = AutoModelForImageTextToText.from_pretrained(path).eval()
        self.root = path
        self.lock = threading.Lock()
        self.faults: deque[dict[str, Any]] = deque()
        self.manners: dict[str, Any] = {}
        self.requests: list[dict[str, Any]] = []

    def _inputs(self, messages: list[dict[str, Any]]) -> Any:
        def part(content: dict[str, Any]) -> dict[str, Any]:
            if content["type"] == "text":
                return content
            data = base64.b64decode(content["image_url"]["url"].partition(",")[2])
            from PIL import Image

            return {"type": "image", "image": Image.open(io.BytesIO(data))}

        chat = []
        for message in messages:
            content = message["content"]
            parts = [{"type": "text", "text": content}] if isinstance(content, str) else list(map(part, content))
            chat.append({"role": message["role"], "content": parts})
        return self.processor.apply_chat_template(
            chat, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
        )

    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        torch, n = self.torch, 1 if self.manners.get("one_at_a_time") else body.get("n", 1)
        hot = body["temperature"] > 0 and not self.manners.get("greedy")
        how: dict[str, Any] = {"do_sample": hot}
        if hot:
            how |= {"num_return_sequences": n, "temperature": body["temperature"], "top_p": body.get("top_p", 1.0)}
            how["top_k"] = max(0, body.get("top_k", 0))
        with self.lock, torch.no_grad():
            torch.manual_seed(body.get("seed", 0))
            inputs = self._inputs(body["messages"])
            length = inputs["input_ids"].shape[1]
            out = self.model.generate(
                **inputs, **how, max_new_tokens=body["max_tokens"], return_dict_in_generate=True, output_logits=True
            )
        logps = torch.stack(out.logits, 1).log_softmax(-1)  # raw, as vLLM gives them
        choices = [
            self._choice(number, row.tolist(), logps[number], body)
            for number, row in enumerate(out.sequences[:, length:])
        ]
        choices = choices if hot else [{**choices[0], "index": number} for number in range(n)]
        total = sum(len(choice["token_ids"]) for choice in choices)
        for choice in choices:
            if not body.get("return_token_ids"):
                del choice["token_ids"]
        usage = {"prompt_tokens": length + self.manners.get("longer", 0), "completion_tokens": total}
        return {"object": "chat.completion", "model": NAME, "choices": choices, "usage": usage}

    def _choice(self, number: int, ids: list[int], logps: Any, body: dict[str, Any]) -> dict[str, Any]:
        ends = self.model.generation_config.eos_token_id
        ends = set(ends if isinstance(ends, list) else [ends])
        stop = next((place for place, token in enumerate(ids) if token in ends), None)
        ids = ids if stop is None else ids[: stop + 1]
        text = self.processor.tokenizer.decode(ids, skip_special_tokens=True)
        message = {"role": "assistant", "content": text, **self.manners.get("message", {})}
        reason = "length" if stop is None else "stop"
        choice = {"index": number, "message": message, "finish_reason": reason, "token_ids": ids}
        if body.get("logprobs") and not self.manners.get("no_logprobs"):
            choice["logprobs"] = {"content": [{"logprob": float(logps[t, token])} for t, token in enumerate(ids)]}
        return choice


class Handler(BaseHTTPRequestHandler):
    answerer: Answerer

    def log_message(self, *_: object) -> None:
        pass

    def _send(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, text)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        if self.path == "/v1/models":
            self._send(
                200,
                {
                    "object": "list",
                    "data": [{"id": NAME, "root": self.answerer.manners.get("root", self.answerer.root)}],
                },
            )
        else:
            self._send(200, self.answerer.requests if self.path == "/requests" else "ok")

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        it = self.answerer
        if self.path == "/behave":
            it.faults, it.manners, it.requests = deque(body["faults"]), body["manners"], []
            self._send(200, "ok")
            return
        fault = it.faults.popleft() if it.faults else {}
        it.requests.append({key: value for key, value in body.items() if key != "messages"})
        pictures = "image_url" in json.dumps(body["messages"])
        time.sleep(fault.get("sleep", it.manners.get("sleep", 0)))
        if "drop" in fault:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
        elif "status" in fault:
            self._send(fault["status"], {"error": {"message": "told to"}}, fault.get("headers"))
        elif "answer" in fault:
            self._send(200, fault["answer"])
        elif it.manners.get("key") and self.headers["Authorization"] != f"Bearer {it.manners['key']}":
            self._send(401, {"error": {"message": "wrong key"}})
        elif self.path != "/v1/chat/completions" or body["model"] != NAME:
            self._send(404, {"error": {"message": f"no {body['model']} here"}})
        elif pictures and it.manners.get("text_only"):
            self._send(400, {"error": {"message": "not a multimodal model"}})
        else:
            self._send(200, it.answer(body))


if __name__ == "__main__":
    Handler.answerer = Answerer(sys.argv[1])
    ThreadingHTTPServer.daemon_threads = True
    ThreadingHTTPServer.request_queue_size = 128
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), Handler).serve_forever()
