"""The old name of `llama-exp breakdown`, until 0.3."""

if __name__ == "__main__":
    from llama_exp.cli.main import run_old_name

    run_old_name("llama_exp.tables", "breakdown")
