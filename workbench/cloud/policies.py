"""Who may do what, as IAM has it: ministack's evaluation of policies, for functions, and for training jobs as well.

Functions have their roles from ministack. Whoever comes with the cloud's own keys is the account's root.
"""

import json
import secrets
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path
from typing import Any

from ministack import app
from ministack.core import iam_actions, iam_evaluator
from ministack.core.iam_evaluator import ParsedStatement, PrincipalInfo, pin_request_origin
from ministack.core.responses import get_account_id, get_region
from ministack.services import sts

_ABOUT_AN_ITEM = {f"AmazonSSM.{operation}" for operation in ("GetOpsItem", "UpdateOpsItem")}
# the number of a grant that a role is imagined without
_WITHOUT: ContextVar[int | None] = ContextVar("without", default=None)


def register(decisions: Path) -> None:
    """Tell ministack what its evaluation cannot know.

    The loopback interface is as private as TLS, which the policies of buckets, queues and topics ask for; and an item
    of OpsCenter, which is not ministack's own, is a resource.

    Args:
        decisions: a file for what each role asked for, whether it may, and the grants that it needed for it: those
            without any one of which it would have been refused. A line for each first time.
    """

    def pin(source_ip: str, secure_transport: bool) -> None:
        pin_request_origin(source_ip, True)

    resource_arn = iam_actions.extract_resource_arn

    def resource_arn_or_item(
        service: str, method: str, path: str, headers: Mapping[str, str], body: bytes, *rest: Any, **named: Any
    ) -> Any:
        if service == "ssm" and headers.get("x-amz-target", "") in _ABOUT_AN_ITEM:
            item = json.loads(body)["OpsItemId"]
            return f"arn:aws:ssm:{get_region()}:{get_account_id()}:opsitem/{item}"
        return resource_arn(service, method, path, headers, body, *rest, **named)

    enforce, resolve, known = iam_evaluator.enforce, iam_evaluator.resolve_principal, set()

    def resolve_without(*of: Any, **named: Any) -> Any:
        principal, number = resolve(*of, **named), _WITHOUT.get()
        if number is None or not isinstance(principal, PrincipalInfo) or principal.policies is None:
            return principal
        grants = _grants(principal)
        return replace(principal, policies=[grants[:number] + grants[number + 1 :]])

    def enforce_and_keep(access_key: str, action: str, service: str, region: str, *rest: Any, **named: Any) -> Any:
        def refused_without(number: int) -> bool:
            token = _WITHOUT.set(number)
            try:
                return enforce(access_key, action, service, region, *rest, **named) is not None
            finally:
                _WITHOUT.reset(token)

        denied = enforce(access_key, action, service, region, *rest, **named)
        resource = rest[0] if rest else named.get("resource_arn", "*")
        decided = (sts._sessions.get(access_key, {}).get("Arn"), action, resource, denied is None)
        if decided[0] and decided not in known:
            known.add(decided)
            principal = resolve(access_key, get_account_id())
            grants = [] if denied or not isinstance(principal, PrincipalInfo) else _grants(principal)
            needed = [n for n, grant in enumerate(grants) if action in grant.actions and refused_without(n)]
            with decisions.open("a") as file:
                file.write(json.dumps([*decided, needed]) + "\n")
        return denied

    decisions.unlink(missing_ok=True)
    iam_evaluator.enforce = enforce_and_keep
    iam_evaluator.resolve_principal = resolve_without
    app.pin_request_origin = pin
    iam_actions.extract_resource_arn = resource_arn_or_item


def _grants(principal: PrincipalInfo) -> list[ParsedStatement]:
    """A principal's statements, one for each resource and action, in the order of its policies."""
    return [
        replace(statement, actions=[action], resources=[resource])
        for policy in principal.policies or []
        for statement in policy
        for resource in statement.resources
        for action in statement.actions
    ]


def role_credentials(role_arn: str, session: str) -> Mapping[str, str]:
    """The variables by which an SDK acts in a role, until the cloud ends."""
    role, access_key = role_arn.rpartition("/")[2], f"ASIA{secrets.token_hex(8).upper()}"
    credentials = {
        "AWS_ACCESS_KEY_ID": access_key,
        "AWS_SECRET_ACCESS_KEY": secrets.token_hex(20),
        "AWS_SESSION_TOKEN": secrets.token_hex(32),
    }
    sts.register_session(
        access_key,
        {
            "Arn": f"arn:aws:sts::{get_account_id()}:assumed-role/{role}/{session}",
            "UserId": f"{role}:{session}",
            "SecretAccessKey": credentials["AWS_SECRET_ACCESS_KEY"],
            "SessionToken": credentials["AWS_SESSION_TOKEN"],
        },
    )
    return credentials
