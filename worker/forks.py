"""Whether a process is a fork of the one that made an object: asking the kernel who we are at each row takes longer."""

import os


class Forks:
    """Of how many forks, one after the other, this process has come."""

    count = 0

    def another(self) -> None:
        """One more, in the child."""
        self.count += 1


forks = Forks()
os.register_at_fork(after_in_child=forks.another)
