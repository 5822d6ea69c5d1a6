"""git-gru: ML models as first-class versioned objects in Git.

Kept free of imports: a Git filter starts with this file on every `git add`.
"""

__version__ = "0.1.0"
