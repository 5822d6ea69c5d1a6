"""Git integration: running git, the filter process, attributes, installing, hooks, revisions and plumbing commits.

Everything here talks to the user's repository; weights themselves live in `git_gru.store`. Nothing here prints, exits or
reads settings from the environment (`run.py` alone touches it, to hand it on to the git processes it starts).
"""
