"""A queue of Amazon SQS, made on demand; its dead-letter place is a second queue, NAME-dead.

SQS cannot change a message, so a task that failed is sent anew with one failure more and its error as
attributes, and the old message is deleted after that: a worker that is killed between the two leaves a
duplicate, which does no harm. A message that was handed out LOST times and never ended kills its
workers, and is dead too. SQS keeps a lease for at most 12 hours, and a message for 14 days.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from typing import Any

from segflow.errors import LeaseLost, QueueError
from segflow.tasks.queues import messages
from segflow.tasks.queues.base import LOST, Counts, Dead, Leased, Queue, poll_max
from segflow.tasks.queues.messages import Message

BATCH = 10  # of one request
SENDERS = 8  # requests at a time
LEASE = 1800  # seconds, of a queue that we make; every lease tells its own
KEPT = 14 * 24 * 3600
LONGEST = 12 * 3600
WAIT = 1  # seconds that SQS waits for a message
TRIES = 6  # of a request, with growing waits
VANISHED = f"it was handed out {LOST} times and never ended: its workers were killed, or out of memory"
COUNTS = ("ApproximateNumberOfMessages", "ApproximateNumberOfMessagesDelayed")
RUNNING = "ApproximateNumberOfMessagesNotVisible"


class SqsQueue(Queue):
    """The queue NAME; credentials, region and endpoint are those of the AWS chain."""

    def __init__(self, name: str, *, create: bool = False, failures: int = 3) -> None:
        self.name, self.failures = name, failures
        self.address = f"sqs://{name}"
        with self._telling():
            self.client = _client()
            found = self._find(name) or (self._make(name) if create else None)
        if found is None:
            raise QueueError(f"there is no queue {self.address}; generate-tasks -q makes one")
        self.url = found
        self._dead_url: str | None = None

    def send(self, messages: Iterable[Message]) -> int:
        """Put tasks in, ten a request."""
        from concurrent.futures import ThreadPoolExecutor

        count, source, sent = 0, iter(messages), deque[Any]()
        with ThreadPoolExecutor(SENDERS) as pool:
            while batch := list(islice(source, BATCH)):
                sent.append(pool.submit(self._send, batch))
                if len(sent) > 2 * SENDERS:
                    count += sent.popleft().result()
            return count + sum(s.result() for s in sent)

    def lease(self, seconds: float) -> Leased | None:
        """Take a free task, waiting up to a second for one."""
        while True:
            with self._telling():
                found = self._receive(self.url, 1, seconds)
            if not found:
                return None
            held = SqsLease(self, found[0], seconds)
            try:
                if held.times > LOST:
                    raise QueueError(VANISHED)
                held.message = messages.read(found[0]["Body"])
            except QueueError as error:
                held.bury(str(error))
                self.tell_dead(str(error))
                continue
            return held

    def peek(self, most: int) -> list[Message]:
        """Receive up to ten messages and hide them from nobody; SQS counts that as one try of each."""
        found: list[Message] = []
        with self._telling():
            for told in self._receive(self.url, min(most, BATCH), 0):
                with suppress(QueueError):
                    found.append(messages.read(told["Body"]))
                self.client.change_message_visibility(
                    QueueUrl=self.url, ReceiptHandle=told["ReceiptHandle"], VisibilityTimeout=0
                )
        return found

    def counts(self) -> Counts:
        """Ask SQS, which tells roughly, and a little late."""
        with self._telling():
            waiting, running = self._counts(self.url)
            dead = self._find(f"{self.name}-dead")
            return Counts(waiting, running, sum(self._counts(dead)) if dead else 0)

    def dead(self) -> list[Dead]:
        """Look at all dead messages; they are hidden from others for some seconds meanwhile."""
        with self._telling():
            found = list(self._all_dead())
            for told in found:
                self._show(told)
        return [_dead(told) for told in found]

    def retry_dead(self) -> int:
        """Put dead tasks back."""
        count, kept = 0, []
        with self._telling():
            for told in self._all_dead():
                message = _dead(told).message
                if "raw" in message:
                    kept.append(told)
                    continue
                self._send([message])
                self.client.delete_message(QueueUrl=self.dead_url, ReceiptHandle=told["ReceiptHandle"])
                count += 1
            for told in kept:
                self._show(told)
        return count

    def purge(self) -> None:
        """Remove all messages; SQS does that once a minute."""
        with self._telling():
            for url in (self.url, self._find(f"{self.name}-dead")):
                if url:
                    self.client.purge_queue(QueueUrl=url)

    # -- parts ------------------------------------------------------------------------------

    @property
    def dead_url(self) -> str:
        """The queue of dead messages, made when it is first needed."""
        if self._dead_url is None:
            name = f"{self.name}-dead"
            self._dead_url = self._find(name) or self._make(name)
        return self._dead_url

    def _find(self, name: str) -> str | None:
        try:
            return str(self.client.get_queue_url(QueueName=name)["QueueUrl"])
        except self.client.exceptions.QueueDoesNotExist:
            return None

    def _make(self, name: str) -> str:
        wanted = {
            "VisibilityTimeout": LEASE,
            "MessageRetentionPeriod": KEPT,
            "ReceiveMessageWaitTimeSeconds": 20,
        }
        made = self.client.create_queue(QueueName=name, Attributes={k: str(v) for k, v in wanted.items()})
        return str(made["QueueUrl"])

    def _send(self, batch: list[Message]) -> int:
        """Send up to ten messages; those that SQS refused for a moment are sent again."""
        left = {str(i): messages.body(m) for i, m in enumerate(batch)}
        for wait in (0.2, 1.0, 5.0, 0.0):
            entries = [{"Id": i, "MessageBody": text} for i, text in left.items()]
            with self._telling():
                told = self.client.send_message_batch(QueueUrl=self.url, Entries=entries)
            left = {e["Id"]: left[e["Id"]] for e in told.get("Failed", [])}
            if not left:
                return len(batch)
            time.sleep(wait)
        raise QueueError(
            f"the queue {self.address} refused {len(left)} messages: {told['Failed'][0].get('Message')}"
        )

    def _receive(self, url: str, count: int, seconds: float) -> list[dict[str, Any]]:
        return list(
            self.client.receive_message(
                QueueUrl=url, MaxNumberOfMessages=count, VisibilityTimeout=_whole(seconds),
                WaitTimeSeconds=int(min(WAIT, poll_max())), MessageAttributeNames=["All"],
                MessageSystemAttributeNames=["ApproximateReceiveCount"],
            ).get("Messages", [])
        )  # fmt: skip

    def _all_dead(self) -> Iterator[dict[str, Any]]:
        url = self._find(f"{self.name}-dead")
        if url is None:
            return
        self._dead_url, seen = url, set()
        while found := self._receive(url, BATCH, 30):
            fresh = [told for told in found if told["MessageId"] not in seen]
            if not fresh:
                return
            seen |= {told["MessageId"] for told in fresh}
            yield from fresh

    def _show(self, told: dict[str, Any]) -> None:
        self.client.change_message_visibility(
            QueueUrl=self.dead_url, ReceiptHandle=told["ReceiptHandle"], VisibilityTimeout=0
        )

    def _counts(self, url: str) -> tuple[int, int]:
        names = [*COUNTS, RUNNING]
        told = self.client.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
        return sum(int(told.get(name, 0)) for name in COUNTS), int(told.get(RUNNING, 0))

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Turn what boto3 says into one line."""
        from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, NoRegionError

        try:
            yield
        except (NoCredentialsError, NoRegionError) as error:
            raise QueueError(
                f"the queue {self.address} cannot be used: AWS's region or credentials are not set "
                f"(AWS_DEFAULT_REGION, aws configure); a queue in a folder is fq://{self.name}"
            ) from error
        except (BotoCoreError, ClientError) as error:
            text = messages.line(error, 300)
            raise QueueError(f"the queue {self.address} cannot be used: {text}") from error


class SqsLease(Leased):
    """A message that SQS hides from others until ``ends`` of our own clock."""

    def __init__(self, queue: SqsQueue, told: dict[str, Any], seconds: float) -> None:
        self.queue, self.handle, self.body = queue, told["ReceiptHandle"], told["Body"]
        self.began = time.monotonic()
        self.ends = self.began + _whole(seconds)
        self.times = int(told.get("Attributes", {}).get("ApproximateReceiveCount", 1))
        self.failed = _failures(told)
        self.tries = self.failed + self.times

    def extend(self, seconds: float) -> None:
        left = LONGEST - (time.monotonic() - self.began)
        now = min(_whole(seconds), int(left))
        self._ours(
            lambda: self.queue.client.change_message_visibility(
                QueueUrl=self.queue.url, ReceiptHandle=self.handle, VisibilityTimeout=max(0, now)
            )
        )
        self.ends = time.monotonic() + now

    def done(self) -> None:
        self._ours(
            lambda: self.queue.client.delete_message(QueueUrl=self.queue.url, ReceiptHandle=self.handle)
        )

    def release(self, error: str | None = None) -> bool:
        if error is None:
            self.extend(0)
            return False
        self.failed += 1
        if self.failed >= self.queue.failures:
            self.bury(error)
            return True
        self._move(self.queue.url, error)
        return False

    def bury(self, error: str) -> None:
        """Move the message to the dead-letter queue, with its error."""
        with self.queue._telling():
            url = self.queue.dead_url
        self._move(url, error)

    def _move(self, url: str, error: str) -> None:
        told = {
            "failures": {"DataType": "Number", "StringValue": str(self.failed)},
            "error": {"DataType": "String", "StringValue": messages.line(error) or "unknown"},
        }
        self._ours(
            lambda: self.queue.client.send_message(
                QueueUrl=url, MessageBody=self.body, MessageAttributes=told
            )
        )
        self.done()

    def _ours(self, call: Callable[[], Any]) -> None:
        """Do something with the message while it is ours; SQS itself would let a stale owner do it."""
        lost = f"the lease of task {messages.line(self.body, 80)} ran out, and another worker may have it"
        if time.monotonic() >= self.ends:
            raise LeaseLost(lost)
        from botocore.exceptions import ClientError

        with self.queue._telling():
            try:
                call()
            except ClientError as error:
                code = str(error.response.get("Error", {}).get("Code", ""))
                if any(word in code for word in ("ReceiptHandle", "MessageNotInflight")):
                    raise LeaseLost(lost) from error
                raise


def _client() -> Any:
    import boto3
    from botocore.config import Config

    settings = Config(connect_timeout=5, read_timeout=30, retries={"mode": "standard", "max_attempts": TRIES})
    return boto3.client("sqs", config=settings)


def _whole(seconds: float) -> int:
    """Give whole seconds that SQS takes."""
    return max(0, min(LONGEST, round(seconds + 0.499)))


def _failures(told: dict[str, Any]) -> int:
    text = told.get("MessageAttributes", {}).get("failures", {}).get("StringValue", "0")
    return int(text) if text.isdigit() else 0


def _dead(told: dict[str, Any]) -> Dead:
    error = told.get("MessageAttributes", {}).get("error", {}).get("StringValue", "unknown")
    try:
        return Dead(messages.read(told["Body"]), error)
    except QueueError:
        return Dead({"raw": told["Body"]}, error)
