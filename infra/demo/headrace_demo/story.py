"""What happens in the demo, in order. Every wait is for a condition; nothing here knows how it will end."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headrace.chassis.access import AccessSettings
from headrace.chassis.bus_confluent import ConfluentBus
from headrace.client.governance import GovernanceClient, Refused, Unreachable
from headrace.contracts.codec import Codec, ConfluentRegistry
from headrace.contracts.signing import load_private
from headrace_demo.board import Board
from headrace_demo.doors import PIPELINE, Addresses, Doors
from headrace_demo.intruders import Intruders
from headrace_demo.player import Gate, Player
from headrace_demo.waiting import Stopped, until
from headrace_demo.watcher import Pages, Passports
from headrace_demo.year import Year
from headrace_local import Stack

MODEL = "late_arrival"
PROPOSER, APPROVER = "ada", "grace"
COMMAND_TIMEOUT_S = 120.0
CANDIDATE_TIMEOUT_S = 420.0  # data set, training, export, parity of a first model, on a slow machine
PLAY_S_MAX = 180.0  # of wall time: then the play ends as if the declared end had come
LOOK_S = 0.3
STARTING = 503


@dataclass
class Story:
    """One run over a stack that is ready."""

    stack: Stack
    board: Board
    year: Year
    root: Path
    run_id: str
    play_limit_s: float = PLAY_S_MAX
    enough: threading.Event = field(default_factory=threading.Event)  # the second promotion was seen
    failure: BaseException | None = None

    def __post_init__(self) -> None:
        stack = self.stack
        access = AccessSettings.of(stack.client_env())
        self.bus = ConfluentBus(stack.bootstrap, access.kafka())
        self.codec = Codec(ConfluentRegistry(stack.registry_url, client_config=access.registry()))
        producer = AccessSettings.of(stack.client_env("producer"))
        where = Addresses(stack.url("svc-ingest"), stack.bootstrap, stack.registry_url, stack.layout.drop, producer)
        self.doors = Doors(where, self.board)
        self.gate = Gate(stack.url("svc-serve"), PIPELINE, self.board)
        self.player = Player(self.year, self.doors, self.gate, self.board, stack.url("svc-serve"), self.enough)
        self.passports = Passports(self.bus, self.codec, PIPELINE, self.board)
        self.pages = Pages(stack, self.board)

    # -- the whole of it

    def tell(self) -> None:
        """From apply to the end of play. Raises what goes wrong; the board tells the rest."""
        board = self.board
        board.phase = "apply"
        self.apply("flights")
        self.pages.start()
        self.passports.start()
        side = threading.Thread(target=self._guarded, args=(self._meanwhile,), daemon=True)
        side.start()
        board.phase = "history"
        self.player.history()
        board.say(f"history is in: {sum(board.accepted.values()):,} events")
        self.player.resend()
        self.player.misbehave()
        side.join(COMMAND_TIMEOUT_S)
        self.request_training()
        board.phase = "play"
        play = threading.Thread(target=self._guarded, args=(self._play,), daemon=True)
        play.start()
        self._govern(play)
        play.join()
        if self.failure is not None:
            raise self.failure
        self.passports.done.set()
        self.passports.join(COMMAND_TIMEOUT_S)
        self.pages.look()

    def close(self) -> None:
        self.board.stop.set()
        self.doors.close()
        self.gate.close()

    def _guarded(self, run: Callable[[], None]) -> None:
        try:
            run()
        except BaseException as error:
            self.failure = self.failure or error
            self.board.stop.set()

    def _play(self) -> None:
        self.player.play(self.play_limit_s)

    # -- what people do

    def apply(self, pipeline: str, expected: int = 0) -> str:
        """`headrace apply`, as ada. Raises RuntimeError with its output unless it ends as expected."""
        stack = self.stack
        command = [
            *(sys.executable, "-m", "headrace.cli.main", "apply", str(self.root / "schemas" / "pipelines" / pipeline)),
            *("--as", PROPOSER, "--key", str(self.key(PROPOSER)), "--url", stack.url("svc-governance"), "--wait", "90"),
        ]
        env = dict(os.environ, COLUMNS="120", PYTHONPATH=os.pathsep.join(p for p in sys.path if p))
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, env=env)
        said = (done.stdout + done.stderr).strip()
        if done.returncode != expected:
            raise RuntimeError(f"headrace apply {pipeline} ended with {done.returncode}:\n{said}")
        self.board.say(
            f"{PROPOSER} applied {pipeline}: "
            + ("every service took it up" if expected == 0 else said.splitlines()[-1].rpartition("\u2518")[2])
        )
        self.board.facts[f"applied {pipeline}"] = said
        return said

    def _meanwhile(self) -> None:
        self.apply_faulty()
        if self.stack.settings.secure:
            self.intrude()

    def intrude(self) -> None:
        """Those who should not get in try to, before there is an honest rollout."""
        found = self.board.facts["intruders"] = Intruders(self.stack, self.codec, PIPELINE, MODEL).all()
        for who, refusal in found.items():
            self.board.say(f"{who} refused by {refusal['by']}: {refusal['detail'][:90]}")

    def apply_faulty(self) -> None:
        """The second pipeline: admitted, then parked by the one service that cannot run it."""
        self.apply("faulty", expected=1)
        with self.as_nobody() as client:
            self.board.facts["parked"] = client.pipeline("faulty")["parked"]

    def request_training(self) -> None:
        """ada asks for the first model: all of January to May."""
        with self.as_person(PROPOSER) as client:
            client.train(PIPELINE, MODEL, self.year.begin_ms, self.year.play_ms, f"demo-{self.run_id}")
        self.board.say(f"{PROPOSER} asked for a model of January to May")

    def key(self, principal: str) -> Path:
        return self.stack.layout.keys / "private" / f"{principal}.pem"

    def as_person(self, principal: str) -> GovernanceClient:
        return GovernanceClient(self.stack.url("svc-governance"), principal, load_private(self.key(principal)))

    def as_nobody(self) -> GovernanceClient:
        return GovernanceClient(self.stack.url("svc-governance"))

    # -- candidates and rollouts, until the play is over

    def _govern(self, play: threading.Thread) -> None:
        """Decide on candidates as they come; the play ends with the second promotion."""
        handled: set[str] = set()
        promoted: list[str] = []

        def look() -> bool:
            try:
                self._decide(client, handled, promoted)
            except (Unreachable, Refused) as error:  # away or reading its chain: what was not decided comes up again
                if isinstance(error, Refused) and error.status != STARTING:
                    raise
                return not play.is_alive()
            self.board.facts["promoted"] = list(promoted)
            if len(promoted) >= 2:
                self.enough.set()
            return not play.is_alive()

        with self.as_nobody() as client:  # one for all looks: making one reads the certificates of the machine
            try:
                until("the end of play", look, self.play_limit_s + CANDIDATE_TIMEOUT_S, self.board.stop, LOOK_S)
            except Stopped:
                if self.failure is None:
                    raise

    def _decide(self, client: GovernanceClient, handled: set[str], promoted: list[str]) -> None:
        """One look at what svc-governance holds. Raises Unreachable."""
        for view in client.candidates():
            self._handle(view, handled)
            if view["state"] in ("PROMOTED", "SUPERSEDED") and view["candidate_id"] not in promoted:
                promoted.append(view["candidate_id"])
                self.board.say(f"model {view['model_digest'][:8]} promoted: it answers for everyone")
        self._findings(client)
        self._taken_up(client)

    def _handle(self, view: dict[str, Any], handled: set[str]) -> None:
        """Approve a candidate that passed the gate; one whose approval went unanswered is met again. Raises Unreachable."""
        ident = view["candidate_id"]
        if ident in handled:
            return
        board = self.board
        if view["state"] == "GATE_FAILED":
            handled.add(ident)
            failed = "; ".join(f"{term['name']}: {term['detail']}" for term in view["gate"] if not term["passed"])
            board.say(f"candidate {ident[:8]} failed the gate: {failed}")
        elif view["state"] == "GATED":
            board.say(
                f"candidate {ident[:8]} passed the gate, AUC {view['metrics'].get('auc', float('nan')):.3f} on its last fifth"
            )
            if "refused" not in board.facts:
                self._try_to_cheat(ident)
            with self.as_person(APPROVER) as client:
                client.approve(ident, "looked at the evaluation")
            handled.add(ident)
            board.say(f"{APPROVER} approved {ident[:8]}: the canary begins")

    def _try_to_cheat(self, candidate: str) -> None:
        """Approving without a name, and approving one's own: both must be refused."""
        refused: dict[str, Any] = {}
        for who, client in (("anonymous", self.as_nobody()), ("proposer", self.as_person(PROPOSER))):
            with client:
                try:
                    client.approve(candidate)
                    refused[who] = {"status": 200, "detail": "it was let through"}
                except Refused as refusal:
                    refused[who] = {"status": refusal.status, "detail": refusal.detail}
            self.board.say(f"approval by {who} refused ({refused[who]['status']}): {refused[who]['detail'][:90]}")
        self.board.facts["refused"] = refused

    def _taken_up(self, client: GovernanceClient) -> None:
        """Tell once what a replica says to a rollout it will not serve."""
        told: set[tuple[int, str]] = self.board.facts.setdefault("rollouts refused", set())
        for rollout in client.rollouts():
            for ack in rollout["acks"]:
                mark = (rollout["epoch"], ack["instance"])
                if ack["status"] == "REFUSED" and mark not in told:
                    told.add(mark)
                    self.board.say(f"{ack['instance']} refused rollout epoch {rollout['epoch']}: {ack['detail']}")

    def _findings(self, client: GovernanceClient) -> None:
        board = self.board
        known: dict[str, Any] = board.facts.setdefault("findings", {})
        for finding in client.findings():
            before = known.get(finding["finding_id"])
            if before is None:
                board.say(f"finding: {finding['kind']} of {finding['pipeline']}")
            if finding["answered"] and not (before or {}).get("answered"):
                board.say("svc-governance answered the finding with a training request")
            known[finding["finding_id"]] = finding
