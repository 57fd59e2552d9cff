"""Images by tier: what the repository ships, and what a user has in folders."""

from geluless.data.embedded import embedded_images
from geluless.data.folders import folder_images
from geluless.data.manifest import fixtures_root, teacher_path
from geluless.data.source import ImageSource, require_finite

__all__ = ["ImageSource", "embedded_images", "fixtures_root", "folder_images", "require_finite", "teacher_path"]
