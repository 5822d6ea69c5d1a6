"""The command line: one file a verb. It parses, calls one library function, and renders; only here is anything printed."""
