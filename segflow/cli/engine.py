"""Run a chain: check it, stream states through its steps, time them, place their errors."""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from segflow.cli.operator import NameOption, Operator
from segflow.cli.plan import UNKNOWN, Plan, Spec
from segflow.errors import SegflowError, UsageError, did_you_mean
from segflow.state import Record, Run, State
from segflow.tasks.usage import Meter

log = logging.getLogger("segflow")


@dataclass
class Step:
    """One operator of a chain with its options."""

    number: int
    name: str  # the command's name
    operator: Operator
    options: dict[str, Any]  # values as click parsed them; chunk names where chunks are passed
    names: list[NameOption]
    title: str = ""  # --name, else the command's name
    words: list[str] = field(default_factory=list)  # the step as canonical shell words

    def named(self, *roles: str) -> dict[str, list[str]]:
        """Give option -> chunk names, for the roles in, ins and out."""
        found = {}
        for parameter in self.names:
            value = self.options.get(parameter.name or "")
            if parameter.role in roles and value:
                parts = [p.strip() for p in value.split(",")] if parameter.role == "ins" else [value]
                found[str(parameter.name)] = [p.split("[")[0] for p in parts if p]
        return found

    @property
    def outputs(self) -> list[str]:
        """The names of the chunks it writes."""
        return [n for names in self.named("out").values() for n in names]

    def is_named(self, name: str) -> bool:
        """Whether ``name`` is its ``--name``, its command or an alias of that."""
        from segflow.cli.registry import resolve

        return self.title == name or self.name == resolve(name)[0]

    def arguments(self, state: State | None) -> dict[str, Any]:
        """Give what the function is called with: chunks for the names of ``state``."""
        values = {k: v for k, v in self.options.items() if k != "step_name"}
        for parameter in self.names:
            key = str(parameter.name)
            if parameter.role == "out":
                if key not in self.operator.takes:
                    values.pop(key, None)
            elif state is not None and values.get(key):
                if parameter.role == "in":
                    values[key] = state.get(values[key]) if self._may_lack(key, state) else state[values[key]]
                else:
                    parts = [p.strip() for p in values[key].split(",") if p.strip()]
                    values[key] = {p: state[p.split("[")[0]] for p in parts}
        if state is not None and "state" in self.operator.takes:
            values["state"] = state
        return values

    def _may_lack(self, key: str, state: State) -> bool:
        """Whether a step that a skip led to can do without the chunk: its default is None."""
        if not state.resumed:
            return False
        return inspect.signature(self.operator.function).parameters[key].default is None

    def store(self, state: State, result: Any) -> None:
        """Put what a map function returned under its output names."""
        names = self.outputs
        if result is None or not names:
            return
        values = result if isinstance(result, tuple) else (result,)
        for name, value in zip(names, values):
            state[name] = value


class Chain:
    """The steps of one run, and the run's settings."""

    def __init__(
        self, steps: list[Step], run: Run, *, on_error: str | None = None, prefetch: int | None = None
    ) -> None:
        self.steps = steps
        self.run = run
        worker = any(s.name == "fetch-task" for s in steps)
        run.has_lease = worker
        self.on_error = on_error or ("continue" if worker else "stop")
        self.prefetch = run.prefetch = prefetch if prefetch is not None else int(worker)
        self.at_end: Callable[[], None] | None = None  # called when all is done but looking at it

    # -- before the run ---------------------------------------------------------------------

    def check(self, known: Iterable[str] = ()) -> Iterator[tuple[Step, Plan, list[Spec]]]:
        """Walk along the chain without running it; give each step, the plan after it, its outputs.

        Raises:
            UsageError: a name, file, box or option cannot work.
        """
        chunks = dict.fromkeys(known, UNKNOWN)
        plan = Plan(chunks=chunks, mip=self.run.mip, lease=self.run.has_lease)
        open_names = False
        jumps: list[tuple[Step, str]] = []  # skips whose target is still to come
        for step in self.steps:
            jumps = [(before, name) for before, name in jumps if not step.is_named(name)]
            try:
                with self._placed(step):
                    if plan.lease and step.operator.kind == "stream" and not step.operator.group:
                        raise UsageError("it joins tasks, but those of fetch-task end one by one")
                    self._check_names(step, plan, open_names)
                    specs = self._planned(step, plan)
            except SegflowError as error:
                error.exit_code = 2
                raise
            for name, spec in zip(step.outputs, specs):
                plan.chunks[name] = spec
            if step.operator.deletes:
                for name in str(step.options.get(step.operator.deletes) or "").split(","):
                    plan.chunks.pop(name.strip(), None)
            open_names |= step.operator.unknown_outputs
            if plan.jump:
                jumps, plan.jump = [*jumps, (step, plan.jump)], None
            yield step, plan, specs
        for step, name in jumps:
            with self._placed(step):
                raise UsageError(f"--skip-to {name}: no later step has this name")

    def _check_names(self, step: Step, plan: Plan, open_names: bool) -> None:
        for names in step.named("in", "ins").values():
            for name in names:
                if name in plan.chunks:
                    continue
                held = ", ".join(f"'{n}'" for n in plan.chunks) or "nothing"
                near = did_you_mean(name, list(plan.chunks))
                text = f"no chunk named '{name}'{near}; the steps before write {held}"
                if not open_names:
                    raise UsageError(text)
                log.warning("%s: %s, unless the plugin does", step.name, text)

    def _planned(self, step: Step, plan: Plan) -> list[Spec]:
        specs: Any = None
        before = (dict(plan.chunks), plan.bbox, plan.tasks)
        if step.operator.plan:
            specs = step.operator.plan(plan, step.arguments(None) | _names(step))
        if step.operator.group > 0:
            plan.groups.append(before)
        elif step.operator.group < 0 and plan.groups:
            plan.chunks, plan.bbox, plan.tasks = plan.groups.pop()
        if specs == ():
            return []
        given = list(specs) if isinstance(specs, tuple) else [specs]
        count = len(step.outputs)
        return [s or UNKNOWN for s in given[:count]] + [UNKNOWN] * (count - len(given))

    @contextmanager
    def _placed(self, step: Step, state: State | None = None) -> Iterator[None]:
        """Name the step, and the task, in an error that passes."""
        try:
            yield
        except Exception as error:
            if not hasattr(error, "segflow_step"):
                error.segflow_step = step  # type: ignore[attr-defined]
                error.segflow_task = (  # type: ignore[attr-defined]
                    state.label if state is not None and state.bbox is not None else None
                )
            raise

    # -- the run ----------------------------------------------------------------------------

    def states(self, chunks: dict[str, Any] | None = None) -> Iterator[State]:
        """Run the chain and give each state that comes out of it."""
        for _ in self.check(known=chunks or ()):
            pass
        for step in self.steps:
            if step.operator.prepare:
                with self._placed(step):
                    step.operator.prepare(**step.arguments(None))
        self.run.stop.clear()
        self.run.meter = Meter(s.number for s in self.steps if s.operator.uses == "gpu")
        stream: Iterator[State] = iter([State(chunks or {}, run=self.run)])
        door = self._door() if self.prefetch else 0
        room: Any = None
        for before, step in zip([None, *self.steps], self.steps):
            if self.prefetch and before and before.operator.uses != step.operator.uses:
                from segflow.cli.prefetch import Room, ahead

                room = room or (Room(1 + self.prefetch) if step.number >= door else None)
                stop = self.run.stop if self.run.has_lease else None
                stream = ahead(stream, self.prefetch, stop, room, step.number == door)
            stream = getattr(self, f"_{step.operator.kind}")(step, stream)
        try:
            yield from self._ended(stream)
        finally:
            self.run.stop.set()
            for keeper in self.run.keepers:
                keeper.close()
        self._finish(viewers=False)
        if self.at_end:
            self.at_end()
        self._finish(viewers=True)  # they hold the process

    def _door(self) -> int:
        """Give the step at whose thread tasks are counted: the first cut behind what gives them."""
        cuts = [b.number for a, b in zip(self.steps, self.steps[1:]) if a.operator.uses != b.operator.uses]
        sources = [s.number for s in self.steps if s.operator.source and s.operator.kind == "expand"]
        return next((n for n in cuts if not sources or n > sources[-1]), 0)

    def _ended(self, stream: Iterator[State]) -> Iterator[State]:
        """Give the states that came to the chain's end; end the lease of a task after its last one."""
        for state in stream:
            if state.ends is None:
                self._close(state)
                yield state
            elif state.ends is state.lease:
                state.lease.finish()
            del state

    def _finish(self, viewers: bool) -> None:
        for step in self.steps:
            if step.operator.finish and (step.operator.section == "Viewing") == viewers:
                with self._placed(step):
                    step.operator.finish(self.run, **(step.arguments(None) | _names(step)))

    def _close(self, state: State) -> None:
        if state.skipped is not None:
            self.run.passed += 1
            log.debug("task %s is passed over: %s", state.label, state.skipped)
        if self.run.log_dir:
            from segflow.tasks.log import write_log

            write_log(state, self.run.log_dir)
        if state.lease is not None:
            state.lease.note(state.error)
        if self.run.meter is not None:
            self.run.meter.next()

    def _map(self, step: Step, states: Iterator[State]) -> Iterator[State]:
        for state in states:
            if self._enters(step, state):
                with self._watch(step, state):
                    step.store(state, step.operator.function(**step.arguments(state)))
                state.resumed = False
            yield state
            del state

    def _expand(self, step: Step, states: Iterator[State]) -> Iterator[State]:
        for state in states:
            if not self._enters(step, state):
                yield state
                continue
            with self._watch(step, state):
                children = iter(step.operator.function(**step.arguments(state)))
            given = False  # whether the state itself was, to mark the end of its group
            while state.error is None and not given:
                child = None
                began = time.perf_counter()
                with self._watch(step, state, record=False):
                    child = next(children, None)
                if child is None:
                    break
                child.log.append(Record(step.number, step.title, step.name, time.perf_counter() - began))
                given = child is state
                yield child
                del child
            if state.error is not None and not given:
                yield state
            del state

    def _stream(self, step: Step, states: Iterator[State]) -> Iterator[State]:
        options = step.arguments(None)
        offered = {"level": self._level(step), "turn": partial(self._turn, step)}
        options |= {key: value for key, value in offered.items() if key in step.operator.takes}
        with self._placed(step):
            yield from step.operator.function(states, **options)

    def _level(self, step: Step) -> int:
        """Give how many groups of blocks are open where a step stands."""
        level = 0
        for before in self.steps[: step.number - 1]:
            level = max(0, level + before.operator.group)
        return level

    @contextmanager
    def _turn(self, step: Step, state: State) -> Iterator[bool]:
        """Watch what a stream's step does with one state; tell whether it shall do anything."""
        mine = self._enters(step, state)
        if not mine:
            yield False
            return
        with self._watch(step, state):
            yield True
        state.resumed = False

    def _enters(self, step: Step, state: State) -> bool:
        """Whether this step works on this state; a skipped state resumes at the step it names."""
        if state.error is not None or state.ends is not None:
            return False
        if state.skipped is not None and state.skip_to is not None and step.is_named(state.skip_to):
            state.skipped = state.skip_to = None
            state.resumed = True
        return state.skipped is None or step.operator.always

    @contextmanager
    def _watch(self, step: Step, state: State, record: bool = True) -> Iterator[None]:
        """Time a step's work; with ``--on-error continue`` keep its error in the state."""
        began = time.perf_counter()
        state.running = Record(step.number, step.title, step.name, began) if record else None
        if state.lease is not None:
            state.lease.step = step.title
        try:
            with self._placed(step, state):
                yield
        except Exception as error:
            gives = step.operator.source and step.operator.kind == "expand"  # the tasks; no task failed
            if self.on_error == "stop" or (gives and state.parent is None):
                if state.lease is not None:
                    state.lease.note(error)
                raise
            state.error = error
            self.run.failed += state.lease is None or state.lease.counts_as_failed(error)
            self._tell(state, error)
            _forget_frames(error)
        finally:
            if record:
                state.running = None
                seconds = time.perf_counter() - began
                state.log.append(Record(step.number, step.title, step.name, seconds))
                log.debug("%s: %.3f s (task %s)", step.title, seconds, state.label)

    def _tell(self, state: State, error: Exception) -> None:
        """Say that a task failed; what its queue's last task failed of is said once."""
        if state.lease is not None and state.lease.keeper.same(error):
            log.info("task %s failed in the same way", state.label)
            return
        from segflow.cli.report import explain

        again = state.lease is not None and state.lease.keeper.waits_for(error)
        told = explain(error, self.run.debug)
        log.log(logging.WARNING if again else logging.ERROR, "%s", f"{told}; asking again" if again else told)


def _names(step: Step) -> dict[str, Any]:
    """Give the names of the outputs, which functions do not get but plans do."""
    return {str(p.name): step.options.get(str(p.name)) for p in step.names if p.role == "out"}


def _forget_frames(error: BaseException) -> None:
    """Take the traceback from an error that is kept: its frames would keep the task's chunks."""
    found: BaseException | None = error
    while found is not None:
        found.__traceback__ = None
        found = found.__cause__ or found.__context__


def failed_error(run: Run) -> SegflowError:
    """Give the error that ends a run in which tasks failed."""
    tasks = "1 task" if run.failed == 1 else f"{run.failed} tasks"
    return SegflowError(f"{tasks} failed; see the lines above")
