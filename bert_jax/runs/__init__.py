"""What a run leaves on disk: its workdir, checkpoints and logs; and how its model is opened again."""
