"""NIM manifests as files: ``document`` reads YAML with its lines, ``read`` makes profiles of it, ``write`` the reverse."""
