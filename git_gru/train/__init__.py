"""Training from a commit into commits.

Two kinds of modules, told apart by their first import:

- free of torch, used by the CLI process: recipe, plan, job, launch, corpus, architecture, schedule, sharding
- with torch, run in the workers' processes (or imported by `evaluate`, `sample` and `convert` when they are called): agent,
  worker, engine, tasks, sync, weights, state_dict, torch_file
"""
