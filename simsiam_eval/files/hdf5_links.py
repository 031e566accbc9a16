"""What the names in an HDF5 file lead to: links to datasets and groups may be broken, or lead to themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import h5py

# KeyError: its target, or the file of its target, does not exist; RuntimeError: too many links; OSError: another file that
# is damaged.
_BROKEN = (KeyError, RuntimeError, OSError)


def members(group: h5py.Group) -> dict[str, Any]:
    """The groups and datasets of a group by name, without broken links."""
    found = {}
    for name in group:
        try:
            found[name] = group[name]
        except _BROKEN:
            continue
    return found


def member(group: h5py.Group, name: str) -> Any:
    """The group or dataset of this name or path; None if there is none, or a broken link."""
    try:
        return group[name]
    except _BROKEN:
        return None


def broken_link(group: h5py.Group, name: str) -> str | None:
    """A sentence without a full stop about the broken link in a name or path; None if there is none."""
    path = ""
    for part in name.strip("/").split("/"):
        path = f"{path}/{part}".lstrip("/")
        link = group.get(path, getlink=True)
        if link is None:
            return None
        try:
            group[path]
        except RuntimeError:
            return f"{path} is a link that leads back to itself"
        except _BROKEN:
            file = f" of {link.filename}" if hasattr(link, "filename") else ""
            return f"{path} is a broken link to {getattr(link, 'path', 'an object that is damaged')}{file}"
    return None


def broken_links(group: h5py.Group) -> list[str]:
    """`broken_link` of each name of a group that is one."""
    return [sentence for name in group if (sentence := broken_link(group, name))]
