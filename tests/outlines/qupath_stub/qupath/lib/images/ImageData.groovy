package qupath.lib.images

class ImageData {
    enum ImageType { OTHER, UNSET }
}
