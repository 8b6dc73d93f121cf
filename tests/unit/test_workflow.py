"""The workflow that publishes images gives nobody more than it has to."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helpers.server import ROOT

FOLDER = ROOT / ".github" / "workflows"
TEXT = (FOLDER / "image.yml").read_text(encoding="utf-8")
WORKFLOW: dict[Any, Any] = yaml.safe_load(TEXT)
JOBS: dict[str, dict[str, Any]] = WORKFLOW["jobs"]
STEPS: list[dict[str, Any]] = [step for job in JOBS.values() for step in job["steps"]]
# YAML 1.1 takes the word `on` for a truth.
TRIGGERS: dict[str, Any] = WORKFLOW[True]


def step_with(action: str, job: str) -> dict[str, Any]:
    """Give the inputs of the one step of a job that uses an action."""
    (step,) = (one for one in JOBS[job]["steps"] if one.get("uses", "").startswith(f"{action}@"))
    inputs: dict[str, Any] = step["with"]
    return inputs


def test_it_is_the_only_workflow() -> None:
    """Another one would have to be looked at here."""
    assert [path.name for path in FOLDER.iterdir()] == ["image.yml"]


def test_only_the_job_that_publishes_may_write_and_only_packages() -> None:
    assert WORKFLOW["permissions"] == {}
    assert {name: job["permissions"] for name, job in JOBS.items()} == {
        "release": {"contents": "read"},
        "test": {"contents": "read"},
        "publish": {"contents": "read", "packages": "write"},
    }


def test_only_a_release_that_was_tested_is_published() -> None:
    assert JOBS["publish"]["needs"] == ["release", "test"]
    assert JOBS["publish"]["if"] == "needs.release.outputs.tag"
    assert "if" not in JOBS["test"]
    assert "continue-on-error" not in TEXT
    for job in ("test", "publish"):
        assert step_with("actions/checkout", job)["ref"] == "${{ needs.release.outputs.tag }}"
    # The build's own default is the commit of the run, which is another one each week.
    assert step_with("docker/build-push-action", "publish")["context"] == "."


def test_every_action_is_named_by_its_commit() -> None:
    used = re.findall(r"^ *(?:- )?uses: (.*)$", TEXT, re.MULTILINE)
    assert len(used) == sum("uses" in step for step in STEPS) > 0
    for one in used:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", one), one
    # One commit for each action.
    assert len(set(used)) == len({one.split("@")[0] for one in used})


def test_no_checkout_leaves_the_token_behind() -> None:
    checkouts = [step for step in STEPS if step.get("uses", "").startswith("actions/checkout@")]
    assert len(checkouts) == len(JOBS)
    assert {step["with"]["persist-credentials"] for step in checkouts} == {False}


def test_no_script_has_text_of_others_pasted_into_it() -> None:
    """A branch can be called `$(...)`: scripts read such words from variables."""
    assert "pull_request_target" not in TRIGGERS
    assert [step["run"] for step in STEPS if "${{" in step.get("run", "")] == []


def test_a_release_is_built_again_each_week_with_debians_fixes() -> None:
    (schedule,) = TRIGGERS["schedule"]
    assert re.fullmatch(r"\d+ \d+ \* \* [0-6]", schedule["cron"])
    build = step_with("docker/build-push-action", "publish")
    assert build["pull"] is True
    assert build["no-cache"] is True
    # The tests are about today's base as well.
    runs = [step.get("run", "") for step in JOBS["test"]["steps"]]
    assert runs.index("make image") == 1 + next(
        number for number, run in enumerate(runs) if run.startswith("docker pull ")
    )


def test_what_is_published_comes_with_its_parts_and_its_origin() -> None:
    build = step_with("docker/build-push-action", "publish")
    assert build["sbom"] is True
    assert build["provenance"] == "mode=max"
    assert build["platforms"] == "linux/amd64,linux/arm64"


# An event, the kind and the name of its ref, the tags that there are, and what is published.
_RELEASES = [
    ("push", "tag", "v1.2.3", "v1.2.3 v1.2.2", "v1.2.3"),
    ("push", "tag", "v1.3.0-rc.1", "v1.2.3 v1.3.0-rc.1", "v1.3.0-rc.1"),
    ("push", "branch", "main", "v1.2.3", ""),
    ("push", "branch", "v1.2.3", "v1.2.3", ""),
    ("pull_request", "branch", "1/merge", "v1.2.3", ""),
    ("schedule", "branch", "main", "v1.2.3 v1.10.0 v1.9.9", "v1.10.0"),
    ("schedule", "branch", "main", "v1.2.3 v1.3.0-rc.1 v2 w9.9.9 v9.9.9x", "v1.2.3"),
    ("schedule", "branch", "main", "", ""),
    ("workflow_dispatch", "branch", "main", "v0.9.0 v1.0.0", "v1.0.0"),
]


@pytest.mark.parametrize(("event", "kind", "name", "tags", "published"), _RELEASES)
def test_which_release_is_published(
    tmp_path: Path, event: str, kind: str, name: str, tags: str, published: str
) -> None:
    def git(*arguments: str) -> None:
        identity = ("-c", "user.name=x", "-c", "user.email=x@example.test")
        subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True)

    git("init", "--quiet")
    git("commit", "--quiet", "--allow-empty", "--message=x")
    for tag in tags.split():
        git("tag", tag)
    (script,) = (step["run"] for step in JOBS["release"]["steps"] if "run" in step)
    output = tmp_path / "output"
    facts = {"EVENT_NAME": event, "REF_TYPE": kind, "REF_NAME": name, "OUTPUT": str(output)}
    # As GitHub runs it, which ends it at the first command that fails.
    subprocess.run(
        ["bash", "-e", "-c", script],
        cwd=tmp_path,
        env={**os.environ, **{f"GITHUB_{fact}": value for fact, value in facts.items()}},
        check=True,
    )
    assert output.read_text() == f"tag={published}\n"
