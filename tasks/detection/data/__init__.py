"""Detection datasets (PASCAL VOC, COCO), their checks, training batches, and detections. May import simsiam_eval."""
