"""Average precision of detections, by the rules of COCO and PASCAL VOC. May import the data of detection."""
