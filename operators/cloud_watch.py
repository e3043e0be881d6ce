"""cloud-watch: times of a task to Amazon CloudWatch."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from segflow.cli.operator import operator, option
from segflow.cli.plan import Plan
from segflow.errors import UsageError

if TYPE_CHECKING:
    from segflow.state import State


def plan_watch(plan: Plan, options: dict[str, Any]) -> None:
    """Check the namespace by the service's rules."""
    import re

    name = options["log_name"]
    if not re.fullmatch(r"[A-Za-z0-9._/#:-]{1,255}", name) or name.startswith(("AWS/", ":")):
        raise UsageError(
            f"--log-name '{name}' is no namespace of CloudWatch: letters, digits and . _ / # : -, not AWS/"
        )


@operator("Tasks", uses="io", plan=plan_watch,
          example="segflow fetch-task -q tasks read-precomputed -v s3://bucket/em write-h5 -f chunks/ "
          "cloud-watch delete-task-in-queue")  # fmt: skip
@option("--log-name", default="chunkflow", metavar="NAME", help="Namespace of the metrics.")
def cloud_watch(*, log_name: str = "chunkflow", state: State) -> None:
    """Send the seconds of each step so far to Amazon CloudWatch, by compute device.

    Region and credentials are those of the AWS command line. Where the service does not answer, a
    warning is logged once, and the task goes on.
    """
    from segflow.tasks.cloudwatch import put
    from segflow.tasks.log import timer

    try:
        put(log_name, timer(state.log), state.run.device)
    except Exception as error:  # the metrics are not worth a task
        log = logging.getLogger("segflow")
        first = not state.run.memory.get("cloud-watch failed")
        state.run.memory["cloud-watch failed"] = True
        text = " ".join(str(error).split())
        log.log(logging.WARNING if first else logging.DEBUG,
                "cloud-watch: no metrics are sent: %s: %s", type(error).__name__, text)  # fmt: skip
