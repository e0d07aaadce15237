"""What every source must do, whatever it reads from: one suite, and one stand per scheme to run it on."""
