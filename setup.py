"""Everything else is in pyproject.toml: conf/ is beside the package in a checkout, and inside it in a wheel."""

from setuptools import find_packages, setup

setup(packages=[*find_packages(include=["llama_exp*"]), "llama_exp.conf"], package_dir={"llama_exp.conf": "conf"})
