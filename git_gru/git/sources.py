"""Sources: where models may be, in the order in which they are looked for.

1. this repository's own `refs/gru/store` (somebody pushed to it),
2. the current branch's remote, then the other remotes, each first as a hub (its `refs/gru/store`), then as somebody's working
   repository (the store in its Git folder),
3. the store that the committed file `.gruconfig` names (for forks, mirrors and bare clones, which do not carry `refs/gru/*`),
   once the user has said `git gru trust`:

       [store]
           url = https://host/models.git

`.gruconfig` has the format of git-config(1); nothing in it is used but `store.url`.
"""

import contextlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from git_gru.errors import InputError, StoreError
from git_gru.git.git_remote import GitRemote, Tell
from git_gru.git.local_remote import remote_at
from git_gru.git.repository import Repository
from git_gru.git.transport import shown, transport_environment
from git_gru.store.bare import read_ref
from git_gru.store.remote import Remote, RemoteError
from git_gru.store.store import REF, Store

CONFIG_FILE = ".gruconfig"
TRUSTED = "gru.trustedStore"

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_SCP = re.compile(r"[^/:]+:")  # host:path, as git knows it


class Unapproved:
    """The store at `url` that `.gruconfig` names before the user has approved it: a remote that is never contacted."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.name = f"{url}, which {CONFIG_FILE} names and which is not approved: git gru trust"

    def look(self) -> None:
        """As `Remote.look`: nothing is known of it."""

    def trees(self, oids: Sequence[bytes]) -> None:
        """As `Remote.trees`."""
        raise RemoteError(self.name)

    def models(self, trees: Sequence[bytes], chunks: Sequence[str]) -> None:
        """As `Remote.models`."""
        raise RemoteError(self.name)

    def blobs(self, oids: Sequence[bytes]) -> None:
        """As `Remote.blobs`."""
        raise RemoteError(self.name)

    def move(self, new: bytes, old: bytes | None, *, replace: bool = False, shared: bool = True) -> bool:
        """As `Remote.move`."""
        raise RemoteError(self.name)


class UnknownRemoteError(InputError):
    """A name that is no remote of this repository."""


def sources(repo: Repository, store: Store, tell: Tell | None = None) -> Iterator[Remote]:
    """The remotes in order. They are made one by one: whoever found all models asks for no more."""
    own = str(repo.common_dir)
    if _has_state(repo):
        yield remote_at(
            store, "this repository", own, transport_environment(repo, store.repository), tell=tell
        )
    for name in remote_names(repo):
        hub = fetch_remote(repo, name, store, tell)
        yield hub
        for place in _nested(hub.url):
            environment = transport_environment(repo, store.repository, name)
            yield remote_at(store, f"{name} (its store)", place, environment, optional=True, tell=tell)
    named = committed_store(repo)
    if named is not None and named in trusted_stores(repo):
        yield remote_at(
            store,
            CONFIG_FILE,
            absolute(repo, named),
            transport_environment(repo, store.repository),
            tell=tell,
        )
    elif named is not None:
        yield Unapproved(named)


def remote_names(repo: Repository) -> list[str]:
    """The names of the remotes, the current branch's first, then `origin`."""
    names = sorted({setting.key[7:-4] for setting in repo.settings.matching(r"^remote\..*\.url$")})
    branch = _branch(repo) if len(names) > 1 else ""
    first = [repo.config(f"branch.{branch}.remote") if branch else None, "origin"]
    return sorted(names, key=lambda name: first.index(name) if name in first else len(first))


def default_remote(repo: Repository) -> str:
    """The remote that a push goes to where none is named. Raises `UnknownRemoteError` when there is none."""
    branch = _branch(repo)
    chosen = repo.config(f"branch.{branch}.pushRemote") if branch else None
    names = remote_names(repo)
    name = chosen or repo.config("remote.pushDefault") or (names[0] if names else None)
    if name is None:
        raise UnknownRemoteError("this repository has no remote", hint="Name one: git remote add origin URL")
    return name


def fetch_url(repo: Repository, name: str) -> str:
    """The address that a remote is fetched from. Raises `UnknownRemoteError`."""
    named = repo.settings.every(f"remote.{name}.url")
    return absolute(repo, named[0]) if _is_plain(repo) and all(named) and named else _urls(repo, name)[0]


def push_urls(repo: Repository, name: str) -> list[str]:
    """The addresses that a remote is pushed to. Raises `UnknownRemoteError`."""
    return _urls(repo, name, "--push")


def push_url(repo: Repository, name: str) -> str:
    """The one address that a remote is pushed to. Raises `UnknownRemoteError`, and `InputError` where there are several."""
    urls = push_urls(repo, name)
    if len(urls) > 1:
        raise InputError(
            f"{name} is pushed to {len(urls)} addresses, and this is for one repository: {', '.join(map(shown, urls))}",
            hint="Name a remote that has one of them: git remote add NAME URL",
        )
    return urls[0]


def fetch_remote(repo: Repository, name: str, store: Store, tell: Tell | None = None) -> GitRemote:
    """The remote that is fetched from. Raises `UnknownRemoteError`."""
    environment = transport_environment(repo, store.repository, name)
    return remote_at(store, name, fetch_url(repo, name), environment, plain=_is_plain(repo), tell=tell)


def push_remote(repo: Repository, name: str, url: str, store: Store, tell: Tell | None = None) -> GitRemote:
    """The remote that a push to `name` at `url` goes to."""
    return remote_at(
        store, name, absolute(repo, url), transport_environment(repo, store.repository, name), tell=tell
    )


def committed_store(repo: Repository) -> str | None:
    """The store that `.gruconfig` names: the worktree's, or else the one in HEAD."""
    places = [["--blob", f"HEAD:{CONFIG_FILE}"]]
    if repo.worktree is not None and (repo.worktree / CONFIG_FILE).is_file():
        places.insert(0, ["--file", str(repo.worktree / CONFIG_FILE)])
    for place in places:
        found = repo.completed("config", *place, "--no-includes", "--get", "store.url")
        url = found.stdout.decode("utf-8", "replace").strip()
        if found.returncode == 0 and url and not url.startswith("-"):
            return url
    return None


def trusted_stores(repo: Repository) -> list[str]:
    """The addresses that the user has approved for this repository."""
    return repo.settings.every(TRUSTED)


def trust(repo: Repository) -> str:
    """Approves the store that `.gruconfig` names, for this repository; returns its address. Raises `InputError`."""
    url = committed_store(repo)
    if url is None:
        raise InputError(
            f"no {CONFIG_FILE} here names a store",
            hint=f"Whoever publishes the models commits one: git config -f {CONFIG_FILE} store.url URL",
        )
    if url not in trusted_stores(repo):
        repo.configure("--local", "--add", TRUSTED, url)
    return url


def absolute(repo: Repository, url: str) -> str:
    """`url`, with a relative path resolved as git does it: from the worktree's top."""
    if _SCHEME.match(url) or _SCP.match(url):
        return url
    return str((repo.top / Path(url).expanduser()).resolve())


def _branch(repo: Repository) -> str:
    """The branch that is checked out; empty where none is."""
    return repo.completed("symbolic-ref", "--quiet", "--short", "HEAD").stdout.decode().strip()


def _has_state(repo: Repository) -> bool:
    """Whether the repository has a store's state of its own. Git is asked only where references are no files."""
    if not (repo.common_dir / "reftable").exists():
        with contextlib.suppress(StoreError):  # a reference that is none of ours, or damaged: Git says
            return read_ref(repo.common_dir, REF) is not None
    return repo.completed("rev-parse", "--verify", "--quiet", REF).returncode == 0


def _is_plain(repo: Repository) -> bool:
    """Whether Git takes addresses as they are written, here and in the store: no setting replaces parts of them."""
    return not any(repo.settings.matching(r"^(url|includeif)\."))


def _urls(repo: Repository, name: str, *options: str) -> list[str]:
    result = repo.completed("remote", "get-url", "--all", *options, name)
    if result.returncode != 0:
        raise UnknownRemoteError(
            f"{name} is no remote of this repository", hint="See what there is: git remote -v"
        )
    return [absolute(repo, url) for url in result.stdout.decode("utf-8", "surrogateescape").splitlines()]


def _nested(url: str) -> list[str]:
    """Where the store of a working repository at `url` would be."""
    base = url.rstrip("/")
    inside = [f"{base}/gru/store.git"] if base.endswith(".git") else [f"{base}/.git/gru/store.git"]
    path = Path(url.removeprefix("file://"))
    if _SCP.match(url) or (_SCHEME.match(url) and not url.startswith("file://")):
        return inside
    git_file = path / ".git"
    if git_file.is_file():  # a linked worktree or a submodule: its Git folder is elsewhere
        found = git_file.read_text(errors="replace").strip().removeprefix("gitdir: ")
        folder = (path / found).resolve()
        common = folder / "commondir"
        folder = (folder / common.read_text().strip()).resolve() if common.is_file() else folder
        inside = [str(folder / "gru/store.git")]
    candidates = [*inside, f"{base}/gru/store.git"]
    return [
        place for place in dict.fromkeys(candidates) if Path(place.removeprefix("file://"), "HEAD").is_file()
    ]
