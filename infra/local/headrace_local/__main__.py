from headrace_local.cli import app

app()
