"""A Weights & Biases run beside a training; what fails in it is said, and ends no training."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.files.console import warn

_TIMEOUT_S = 8  # to reach the server at the start
_IN_THE_LOG = "log.jsonl holds the figures"


class WandbRun:
    """A Weights & Biases run; none where that is not wanted or fails.

    `mode` is "online", "offline", "disabled", or "auto": what WANDB_MODE says, else online where
    the user is logged in, else offline. `run_id` is of the run to go on with; `config` are plain
    values, shown beside it. With `id`, None without a run, a later training goes on with the run.
    """

    def __init__(
        self,
        mode: str,
        project: str = "",
        name: str | None = None,
        run_id: str | None = None,
        config: dict[str, Any] | None = None,
    ) -> None:
        self._run: Any = None
        mode = os.environ.get("WANDB_MODE", "auto") if mode == "auto" else mode
        mode = "offline" if mode == "dryrun" else mode  # its name of old
        settings = {"project": project, "name": name, "id": run_id, "config": config}
        attempts = {mode: "the run is logged offline", "offline": _IN_THE_LOG}
        for attempt, instead in attempts.items() if mode != "disabled" else ():
            if self._attempt("start", lambda mode=attempt: self._start(mode, settings), instead):
                break
        self.id = self._run and self._run.id

    def _start(self, mode: str, settings: dict[str, Any]) -> None:
        import wandb

        if mode != "offline" and not wandb.api.api_key:  # it would ask for a key, and wait
            if mode == "online":
                raise RuntimeError("there is no login (wandb login)")
            mode = "offline"
        is_online = mode != "offline"
        limits = {"init_timeout": _TIMEOUT_S} if is_online else {}
        self._run = wandb.init(
            mode="online" if is_online else "offline",
            # Offline, the id alone makes `wandb sync` go on with the run.
            resume="allow" if settings["id"] and is_online else None,
            settings=wandb.Settings(silent=True, **limits),
            **settings,
        )

    def log_epoch(self, record: dict[str, Any]) -> None:
        """Log one epoch's figures, a record of log.jsonl."""
        figures = {"lr": record["lr"], "loss/train": record["train_mpjpe_mm"]}
        if record["valid_mpjpe_mm"] is not None:
            figures["loss/valid"] = record["valid_mpjpe_mm"]
        if not self._attempt("log", lambda: self._run and self._run.log(figures, record["epoch"])):
            self._run = None

    def finish(self, checkpoints: list[Path], exit_code: int = 0) -> None:
        """Add the checkpoints as one model artifact and close the run, a failed one by its code."""
        if self._run is None:
            return

        def upload() -> None:
            import wandb

            artifact = wandb.Artifact(f"model-{self.id}", type="model")
            for path in checkpoints:
                artifact.add_file(str(path))
            self._run.log_artifact(artifact, aliases=["final"])

        if checkpoints:
            self._attempt("take the checkpoints", upload)
        offline, sync_dir = self._run.settings._offline, self._run.settings.sync_dir
        self._attempt("close the run", lambda: self._run.finish(exit_code=exit_code))
        if offline:
            print(f"Weights & Biases was offline; upload the run with: wandb sync '{sync_dir}'")

    def _attempt(self, what: str, call: Callable[[], Any], instead: str = _IN_THE_LOG) -> bool:
        """Do something with the run; where it fails, warn, and return False."""
        try:
            call()
        except Exception as error:  # a broken installation raises what it likes
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            warn(f"Weights & Biases did not {what}: {reason}; {instead}")
            return False
        return True
