"""The programs that daemons start. They import the rule of addresses and nothing else of ours."""
