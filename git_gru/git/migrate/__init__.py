"""Migrating a history: files that Git or git-lfs keeps become models, in every commit, and models become files again.

Words:

- To *import* is to rewrite commits so that the files that the patterns name are models; to *export* is the way back.
- A *pointer* is the small text that git-lfs keeps in a file's place. (`pointers`)
- The *survey* walks the history without writing anything: what would be rewritten, and whether it can be. (`survey`)
- The *rewrite* gives each commit its new tree and parents and leaves every other byte of it as it was. (`trees`, `commits`,
  `notes`)
- A *migration* is one import or export that was carried out; its *id*, a time, names the references that keep the old
  history: `refs/gru/migrate/<id>/old/…` and beside them `…/new/…`, so that it can be undone. (`refs`)

The rewrite works on Git's objects, as `git lfs migrate` does, and not on the stream of `git fast-export` (nor on git-filter-repo,
which is built on it). That stream drops signatures, merged tags and foreign headers (`change-id`, `HG:…`), also from commits that
have nothing to do with the patterns, writes unusual modes anew, and `git fast-import` ends at a time zone that it does not like.
Here a commit whose tree and parents stay the same stays the same object, signature included; an export takes an import back to
the same commit ids; and each distinct blob is read once, in pieces, and only where the patterns concern it.
"""
