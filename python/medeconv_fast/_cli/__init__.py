"""The commands behind ``medeconv``; :mod:`medeconv_fast.cli` is their entry point."""
