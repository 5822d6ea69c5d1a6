"""Tensor algebra on raw bytes: three-way rules, strategies, comparison. Knows no Git, no store and no torch.

Words: a *piece* is a run of one tensor's raw bytes, whole elements, a whole chunk or less; a *side* is one
of the versions being merged, side 0 being "ours"; the *base* is the version that they grew from. A tensor
is described by its dtype, shape and chunk ids, so that what did not change is never read. All arithmetic is
in float64 with one rounding to the tensor's dtype at the end, and bytes that did not change are copied,
never computed (NaN minus itself is NaN).
"""
