"""Leave root's rights behind, once ports are bound and keys are read: ``--user`` and ``--group``."""

from __future__ import annotations

import grp
import os
import pwd

import attrs


class PrivilegesError(ValueError):
    """There is no such user or group, or we may not become it."""


@attrs.frozen
class Identity:
    """Whom to become.

    Attributes:
        uid: The user's number; None to remain who we are.
        gid: The group's number.
        groups: All groups, the user's further ones included.
    """

    uid: int | None
    gid: int
    groups: tuple[int, ...]


def find_identity(user: str | None, group: str | None) -> Identity | None:
    """Look user and group up, by name or number; None if neither is given.

    Without a group it is the user's own, with the further groups of the system's
    data base. A group that is given is the only one.

    Raises:
        PrivilegesError: There is none of that name.
    """
    if user is None and group is None:
        return None
    account = None if user is None else _account(user)
    if group is not None:
        gid = _group(group)
        return Identity(account and account.pw_uid, gid, (gid,))
    assert account is not None
    groups = os.getgrouplist(account.pw_name, account.pw_gid)
    return Identity(account.pw_uid, account.pw_gid, tuple(groups))


def become(identity: Identity) -> None:
    """Become somebody else, for good.

    Raises:
        PrivilegesError: We may not, or could come back.
    """
    try:
        # In this order: once the user has changed, the groups cannot be.
        if {*os.getgroups()} != {*identity.groups}:
            os.setgroups(identity.groups)
        os.setresgid(identity.gid, identity.gid, identity.gid)
        if identity.uid is not None:
            os.setresuid(identity.uid, identity.uid, identity.uid)
    except PermissionError as exc:
        raise PrivilegesError(
            "only root can change user and group: start as root, or leave --user and --group out"
        ) from exc
    if identity.uid:
        try:
            os.setuid(0)
        except PermissionError:
            return
        raise PrivilegesError("the way back to root is still open: something holds CAP_SETUID")


def _account(user: str) -> pwd.struct_passwd:
    try:
        return pwd.getpwuid(int(user)) if user.isdigit() else pwd.getpwnam(user)
    except KeyError:
        raise PrivilegesError(f"there is no user {user!r}") from None


def _group(group: str) -> int:
    try:
        return int(group) if group.isdigit() else grp.getgrnam(group).gr_gid
    except KeyError:
        raise PrivilegesError(f"there is no group {group!r}") from None
