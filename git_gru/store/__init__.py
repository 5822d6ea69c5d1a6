"""The store: where the bytes of models are kept.

Words (docs/format.md is normative):

- A *chunk* is up to 4 MiB of one tensor's raw bytes, cut at fixed offsets from the tensor's start, or of a file that is not
  safetensors, cut by its content; its *id* is the BLAKE3-256 of those bytes. (`chunks`)
- A *manifest* is the small canonical text that Git's tree holds in a model's place: a function of the file's bytes alone.
  (`manifest`)
- An *encoding* is how a chunk is kept, `plain` or `delta` against a *base* chunk; it never shows in a manifest. (`codec`,
  `transform`)
- The *store* is a bare Git repository, `<git common dir>/gru/store.git`; its ref `refs/gru/store` names a commit whose tree
  holds one *model tree* for each manifest: `models/<2 hex>/<62 hex>` -> `{<chunk id>: blob}`, all chunks of that model and the
  bases that they need. (`objects`, `packs`, `trees`, `store`)
- *Ingest* turns a file into chunks and a manifest, *restore* turns a manifest into the file's exact bytes, *repack* re-encodes
  older versions against newer ones, *collection* drops models that nothing needs; both are *rewritings* of the store. (`ingest`,
  `restore`, `repack`, `collect`, `rewrite`)

Invariants: a manifest is answered only after every chunk that it names is durable and reachable from `refs/gru/store`; nothing
unverified leaves the store; a killed process leaves garbage at worst; two writers at once both succeed.
"""
