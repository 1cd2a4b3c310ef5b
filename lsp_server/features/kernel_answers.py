"""What the kernel commands answer, as JSON, and the sentences that they show; the CLI's too.

Rule: pure: data in, JSON and texts out; nothing is decided here.
"""

from __future__ import annotations

from typing import Any

from lsp_server.kernels import evidence as evidences
from lsp_server.kernels.task import Check, Evidence, Outcome

Json = dict[str, Any]


def outcome_json(outcome: Outcome) -> Json:
    """Return what generating came to: the best attempt, and what became of each."""
    best = outcome.best
    return {
        "success": outcome.success,
        "message": outcome.message,
        "language": outcome.task.language.value,
        "code": best.candidate.code if best else "",
        "test": outcome.test if best else "",
        "statement": evidences.statement(best.evidence) if best else "",
        "evidence": evidence_json(best.evidence) if best else None,
        "guessed": any(parameter.guessed for parameter in outcome.task.parameters),
        "attempts": attempts_json(outcome),
    }


def attempts_json(outcome: Outcome) -> list[Json]:
    """Return what became of each attempt, in their order."""
    return [
        {
            "origin": attempt.candidate.origin,
            "attempt": attempt.candidate.attempt,
            "verified": attempt.evidence.verified,
            "failure": failure.reason if (failure := attempt.evidence.failure) else "",
        }
        for attempt in outcome.attempts
    ]


def evidence_json(evidence: Evidence) -> Json:
    """Return each step of the ladder, and the versions that it was taken with."""
    return {
        "key": evidence.key,
        "verified": evidence.verified,
        "checks": checks_json(evidence),
        "versions": dict(evidence.versions),
    }


def checks_json(evidence: Evidence) -> list[Json]:
    """Return each step of the ladder."""
    return [
        {
            "level": check.level.name.lower(),
            "result": check.result.value,
            "summary": check.summary,
            "reason": check.reason,
            "line": check.line,
            "cases": check.cases,
            "counterexample": check.counterexample,
        }
        for check in evidence.checks
    ]


def failure_text(check: Check) -> str:
    """Return why a kernel is not right, and for which arguments."""
    case = check.counterexample
    return check.reason + (f" ({case})" if case and case not in check.reason else "")


def steps_text(evidence: Evidence) -> str:
    """Return the ladder, a step a line."""
    return "\n".join(
        f"{check.level.name.lower()}: {check.result.value.replace('_', ' ')}"
        + (f" ({told})" if (told := check.reason or check.summary) else "")
        for check in evidence.checks
    )
