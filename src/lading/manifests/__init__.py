"""NIM manifests as files: ``document`` is YAML with its lines, ``read`` makes profiles of it, ``write`` the reverse."""
