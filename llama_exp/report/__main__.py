"""python -m llama_exp.report"""

import sys

from llama_exp.report.command import main

sys.exit(main())
