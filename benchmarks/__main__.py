"""``make bench``: every measurement, one after the other."""

from benchmarks import download, startup

if __name__ == "__main__":
    startup.main()
    download.main()
