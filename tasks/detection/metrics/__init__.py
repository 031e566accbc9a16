"""Average precision by the rules of PASCAL VOC and COCO; imports simsiam_eval and tasks.detection.data."""
