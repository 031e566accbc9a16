"""Average precision by the rules of PASCAL VOC and COCO. May import simsiam_eval and tasks.detection.data."""
