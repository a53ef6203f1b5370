"""Commands that show what an output holds, and change nothing."""
