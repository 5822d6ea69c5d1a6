"""Run records and metrics, free of torch: train writes them, cli (and later the live page) reads them."""
