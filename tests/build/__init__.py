"""Writers of synthetic inputs: small files of every form that the readers must know."""
