"""Cross-process truth: store.py (records), lease.py (whose is it), locks.py, state_files.py, process_identity.py."""
