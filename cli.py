"""The command line. Commands are imported when they are called, torch when they run."""

from simsiam_eval.runtime.immediate_exit import end_at_signals

if __name__ == "__main__":
    end_at_signals()  # before the other imports

from simsiam_eval.commands.program import program
from simsiam_eval.commands.table import COMMANDS, GROUPS

main = program(
    "Pretrain a SimSiam encoder, measure how good it is, and use it.",
    COMMANDS.values(),
    GROUPS,
)

if __name__ == "__main__":
    main(prog_name="cli.py")
