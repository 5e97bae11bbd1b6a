"""Hook for a module of onnxruntime that describes the machine, and through which an app would contain torch."""

excludedimports = ["torch"]
