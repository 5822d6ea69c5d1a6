"""File formats, bytes only: no Git, no store, no arithmetic.

`dtypes` names the element types of safetensors; `safetensors` parses and writes headers, strictly and within limits.
"""
