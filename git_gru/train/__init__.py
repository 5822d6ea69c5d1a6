"""Training from a commit into commits.

Two kinds of modules, told apart by their first import:

- free of torch, used by the CLI process: recipe, recipe_file, section, templates, beginning, plan, patience, naming, job, launch,
  recorder, sharing, run, corpus, architecture, schedule, sharding, evaluations
- with torch, run in the workers' processes (or imported by `evaluate`, `sample`, `forecast` and `convert` when they are called):
  agent, worker, engine, tasks, sync, weights, state_dict, torch_file
"""
