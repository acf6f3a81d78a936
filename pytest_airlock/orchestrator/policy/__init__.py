"""What may be made, and of what: planning.py answers every question of a spec with profiles, mounts (and the sensitive
paths), resources, detection, provision, names; merge.py joins the layers of settings before it.
"""
