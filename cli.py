"""The command line. Commands are imported when they are called, torch when they run."""

from simsiam_eval.commands.program import program
from simsiam_eval.commands.table import COMMANDS, GROUPS

main = program(
    "Pretrain a SimSiam encoder, measure how good it is, and use it.",
    COMMANDS.values(),
    GROUPS,
)

if __name__ == "__main__":
    main(prog_name="cli.py")
