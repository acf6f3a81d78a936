"""The contract of providers/base.py as tests, one or more for each numbered sentence (`test_c07_…` is sentence 7).

    pytest --pyargs pytest_airlock.conformance --airlock-provider=NAME

NAME is an entry point of `pytest_airlock.providers` or what a plugin registers by the hook
`pytest_airlock_register_providers`. Only the contract's calls and these programs of the image are used: cat chmod echo env
getent head id kill ln mkdir mkfifo printf pwd rm setsid sh sleep test touch true truncate. Optional protocols and features that
a provider does not have are skipped, with the reason.
"""
