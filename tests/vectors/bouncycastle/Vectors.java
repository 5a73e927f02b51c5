// Writes CMP messages made by Bouncy Castle: java Vectors DIRECTORY
import java.math.BigInteger;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyPair;
import java.security.KeyPairGenerator;
import java.security.spec.ECGenParameterSpec;
import java.util.Date;
import org.bouncycastle.asn1.DERNull;
import org.bouncycastle.asn1.cmp.CMPObjectIdentifiers;
import org.bouncycastle.asn1.cmp.InfoTypeAndValue;
import org.bouncycastle.asn1.cmp.PBMParameter;
import org.bouncycastle.asn1.cmp.PKIBody;
import org.bouncycastle.asn1.crmf.CertReqMessages;
import org.bouncycastle.asn1.crmf.CertReqMsg;
import org.bouncycastle.asn1.nist.NISTObjectIdentifiers;
import org.bouncycastle.asn1.pkcs.PKCSObjectIdentifiers;
import org.bouncycastle.asn1.x500.X500Name;
import org.bouncycastle.asn1.x509.AlgorithmIdentifier;
import org.bouncycastle.asn1.x509.Extension;
import org.bouncycastle.asn1.x509.GeneralName;
import org.bouncycastle.asn1.x509.GeneralNames;
import org.bouncycastle.asn1.x509.KeyUsage;
import org.bouncycastle.asn1.x509.SubjectPublicKeyInfo;
import org.bouncycastle.cert.cmp.ProtectedPKIMessageBuilder;
import org.bouncycastle.cert.crmf.CertificateRequestMessageBuilder;
import org.bouncycastle.cert.crmf.PKMACBuilder;
import org.bouncycastle.cert.crmf.RegTokenControl;
import org.bouncycastle.cert.crmf.jcajce.JcePKMACValuesCalculator;
import org.bouncycastle.operator.ContentSigner;
import org.bouncycastle.operator.jcajce.JcaContentSignerBuilder;
import org.bouncycastle.pkcs.PKCS10CertificationRequestBuilder;

public class Vectors {
    static final char[] SECRET = "bc-secret".toCharArray();
    static final byte[] REFERENCE = "bc-ref".getBytes(StandardCharsets.US_ASCII);
    static final GeneralName CA = new GeneralName(new X500Name("CN=Vector CA"));
    static final X500Name SUBJECT = new X500Name("O=cmpd,CN=bc");
    static Path directory;

    public static void main(String[] args) throws Exception {
        directory = Path.of(args[0]);
        KeyPair ec = ecKey();
        KeyPair rsa = rsaKey();
        ContentSigner ecSigner = new JcaContentSignerBuilder("SHA256withECDSA").build(ec.getPrivate());
        ContentSigner rsaSigner = new JcaContentSignerBuilder("SHA256withRSA").build(rsa.getPrivate());
        write("ir-default", PKIBody.TYPE_INIT_REQ, request(ec, ecSigner, false), sha1());
        write("ir-sha256", PKIBody.TYPE_INIT_REQ, request(ec, ecSigner, false), sha256());
        write("ir-regtoken", PKIBody.TYPE_INIT_REQ, request(rsa, rsaSigner, true), sha256());
        write("cr-authinfo", PKIBody.TYPE_CERT_REQ, pkmacRequest(ec, ecSigner), sha256());
        SubjectPublicKeyInfo key = SubjectPublicKeyInfo.getInstance(ec.getPublic().getEncoded());
        write("p10cr-sha256", PKIBody.TYPE_P10_CERT_REQ,
            new PKCS10CertificationRequestBuilder(SUBJECT, key).build(ecSigner).toASN1Structure(), sha256());
    }

    static KeyPair ecKey() throws Exception {
        KeyPairGenerator generator = KeyPairGenerator.getInstance("EC");
        generator.initialize(new ECGenParameterSpec("secp256r1"));
        return generator.generateKeyPair();
    }

    static KeyPair rsaKey() throws Exception {
        KeyPairGenerator generator = KeyPairGenerator.getInstance("RSA");
        generator.initialize(2048);
        return generator.generateKeyPair();
    }

    static PKMACBuilder sha1() throws Exception {
        return new PKMACBuilder(new JcePKMACValuesCalculator());
    }

    static PKMACBuilder sha256() throws Exception {
        PBMParameter parameter = new PBMParameter("0123456789abcdef".getBytes(StandardCharsets.US_ASCII),
            new AlgorithmIdentifier(NISTObjectIdentifiers.id_sha256), 1000,
            new AlgorithmIdentifier(PKCSObjectIdentifiers.id_hmacWithSHA256, DERNull.INSTANCE));
        return new PKMACBuilder(new JcePKMACValuesCalculator()).setParameters(parameter);
    }

    static CertReqMessages request(KeyPair pair, ContentSigner signer, boolean token) throws Exception {
        CertificateRequestMessageBuilder builder = new CertificateRequestMessageBuilder(BigInteger.ZERO)
            .setSubject(SUBJECT)
            .setPublicKey(SubjectPublicKeyInfo.getInstance(pair.getPublic().getEncoded()))
            .setValidity(new Date(1800000000000L), new Date(1900000000000L))
            .addExtension(Extension.subjectAlternativeName, false,
                new GeneralNames(new GeneralName(GeneralName.dNSName, "bc.example")))
            .addExtension(Extension.keyUsage, true, new KeyUsage(KeyUsage.digitalSignature))
            .setProofOfPossessionSigningKeySigner(signer);
        if (token) {
            builder.addControl(new RegTokenControl("bc-token"));
        }
        return new CertReqMessages(CertReqMsg.getInstance(builder.build().toASN1Structure()));
    }

    // No subject in the template: the proof is over a POPOSigningKeyInput with publicKeyMAC.
    static CertReqMessages pkmacRequest(KeyPair pair, ContentSigner signer) throws Exception {
        CertificateRequestMessageBuilder builder = new CertificateRequestMessageBuilder(BigInteger.ONE)
            .setPublicKey(SubjectPublicKeyInfo.getInstance(pair.getPublic().getEncoded()))
            .setAuthInfoPKMAC(sha256(), SECRET)
            .setProofOfPossessionSigningKeySigner(signer);
        return new CertReqMessages(CertReqMsg.getInstance(builder.build().toASN1Structure()));
    }

    static void write(String name, int type, org.bouncycastle.asn1.ASN1Encodable body, PKMACBuilder mac)
            throws Exception {
        byte[] nonce = (name + "----------------").substring(0, 16).getBytes(StandardCharsets.US_ASCII);
        byte[] message = new ProtectedPKIMessageBuilder(new GeneralName(SUBJECT), CA)
            .setMessageTime(new Date(1800000000000L))
            .setSenderKID(REFERENCE)
            .setTransactionID(nonce)
            .setSenderNonce(nonce)
            .addGeneralInfo(new InfoTypeAndValue(CMPObjectIdentifiers.it_implicitConfirm, DERNull.INSTANCE))
            .setBody(new PKIBody(type, body))
            .build(mac.build(SECRET))
            .toASN1Structure().getEncoded("DER");
        Files.write(directory.resolve(name + ".der"), message);
    }
}
