"""Package ◀─▶ registries and stores: an OCI artifact with a layer per file, pushed and pulled by digest.

``artifact`` is the form, ``registry`` and ``store`` are two places where artifacts lie, ``push`` and ``pull`` move a
package. Knows nothing of how packages are built, signed or served.
"""
