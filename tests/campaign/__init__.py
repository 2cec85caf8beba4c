"""Promises of docs/trust.md, each a command that tries it many times: ``cd tests && python -m campaign.metrics``."""
