"""How several processes are one run: launchers, coordination, signals."""
